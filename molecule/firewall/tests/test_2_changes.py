"""Changes: found, undone, refused, reverted. On one host, by real runs of Ansible over real SSH."""

from __future__ import annotations

import concurrent.futures
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from testinfra.host import Host

ROOT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
NAME, ADDRESS = "ai102-mol-firewall", "198.18.41.62"
testinfra_hosts = [f"docker://{NAME}"]
GATEWAY = "ai102-mol-firewall-gateway"

APPLY = """
- hosts: ai102-mol-firewall
  gather_facts: false
  roles: [ai102.inference.firewall]
"""
BLOCK_SSH = """
- hosts: ai102-mol-firewall
  gather_facts: false
  tasks:
    - tags: [firewall_rules]
      ai102.inference.nft_ruleset:
        rules: {inbound: [], outbound: []}
        check_control: false
        revert_after: 10
"""
TEARDOWN = """
- hosts: ai102-mol-firewall
  gather_facts: false
  tasks:
    - ansible.builtin.import_role: {name: ai102.inference.firewall, tasks_from: teardown}
"""


def ansible(tmp_path: Path, play: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a play against the scenario's inventory."""
    playbook = tmp_path / "play.yml"
    playbook.write_text(play)
    inventories = [f"--inventory={ROOT}/molecule/shared/hosts.yml", f"--inventory={SCENARIO}/hosts.yml"]
    # A connection of an earlier run is not taken up again: the host may have dropped it.
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(tmp_path),
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
        "ANSIBLE_SSH_PIPELINING": "true",
        "ANSIBLE_NOCOLOR": "true",
    }
    return subprocess.run(
        # Only the rules: what comes before them in the role is not what is tested here.
        ["ansible-playbook", *inventories, str(playbook), "--tags=firewall_rules,firewall_teardown", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        timeout=120,
        check=False,
    )


def table(host: Host) -> str:
    """Our table as it is loaded, without counters."""
    return str(host.check_output("nft -s list table inet ai102"))


@pytest.fixture(scope="module")
def before(host: Host) -> str:
    """Our table as the role made it."""
    return table(host)


def test_edited_rules_are_found_shown_and_undone(host: Host, before: str, tmp_path: Path) -> None:
    host.check_output("nft insert rule inet ai102 input tcp dport 4444 accept")
    checked = ansible(tmp_path, APPLY, "--check", "--diff")
    assert checked.returncode == 0, checked.stdout
    assert "tcp dport 4444 accept" in checked.stdout
    assert table(host) != before
    done = ansible(tmp_path, APPLY)
    assert "changed=1 " in done.stdout, done.stdout
    assert table(host) == before


def test_flushed_rules_are_found_and_other_tables_stay(host: Host, before: str, tmp_path: Path) -> None:
    host.check_output("nft add table ip other; nft add chain ip other mine")
    host.check_output("nft delete table inet ai102")
    done = ansible(tmp_path, APPLY)
    assert "changed=1 " in done.stdout, done.stdout
    assert table(host) == before
    assert "chain mine" in host.check_output("nft list table ip other")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            '{"firewall_control_networks": ["10.0.0.0/8"]}',
            "Add 198.18.41.128 or its network there. Nothing was changed.",
        ),
        (
            '{"firewall_flows": [{"name": "ssh", "from": ["control"], "to": ["all"], "ports": [2222]}]}',
            "Put 22 among the ports",
        ),
    ],
)
def test_mistakes_are_refused_before_anything_is_changed(
    host: Host, before: str, tmp_path: Path, variables: str, message: str
) -> None:
    done = ansible(tmp_path, APPLY, "-e", variables)
    assert done.returncode == 2, done.stdout
    assert message in done.stdout, done.stdout
    assert table(host) == before


def ssh_is_open_while_changed(host: Host, before: str) -> bool | None:
    """Waits until other rules are loaded and tries one connection then; sshd punishes those who only knock."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if table(host) != before:
            with socket.socket() as sock:
                sock.settimeout(2)
                return sock.connect_ex((ADDRESS, 22)) == 0
        time.sleep(0.2)
    return None


def test_rules_that_cut_off_ssh_go_away_by_themselves(host: Host, before: str, tmp_path: Path) -> None:
    stored = host.check_output("cat /etc/ai102/firewall/ruleset.nft")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        probe = pool.submit(ssh_is_open_while_changed, host, before)
        done = ansible(tmp_path, BLOCK_SSH)
    assert done.returncode == 2, done.stdout
    assert "No new SSH connection to the host could be made" in done.stdout, done.stdout
    assert "brought the former rules back by itself" in done.stdout, done.stdout
    assert probe.result() is False, "the rules never cut SSH off, so this proves nothing"
    assert table(host) == before
    assert host.check_output("cat /etc/ai102/firewall/ruleset.nft") == stored
    assert host.run("systemctl is-active ai102-firewall-revert.timer").rc != 0


def test_a_control_node_that_goes_away_half_way_locks_nobody_out(host: Host, before: str, tmp_path: Path) -> None:
    """The first half of the module alone, as if Ansible had been killed in between."""
    half = BLOCK_SSH.replace("ai102.inference.nft_ruleset:", "ai102_half:").replace(
        "revert_after: 10", "revert_after: 4"
    )
    library = tmp_path / "library"
    library.mkdir()
    source = (ROOT / "plugins/modules/nft_ruleset.py").read_text()
    (library / "ai102_half.py").write_text(source)
    done = ansible(
        tmp_path,
        half.replace("check_control: false", "check_control: false\n        confirm: true"),
        "-M",
        str(library),
    )
    assert done.returncode == 0, done.stdout
    assert table(host) != before
    deadline = time.monotonic() + 15
    while table(host) != before and time.monotonic() < deadline:
        time.sleep(0.5)
    assert table(host) == before


ACCEPTING = """
import socket, sys
server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
while True:
    server.accept()[0].close()
"""


@pytest.fixture
def published(host: Host) -> Iterator[None]:
    """A container as Docker makes it: behind a bridge, with ports of the host sent on to it."""
    for command in (
        "sysctl -q -w net.ipv4.ip_forward=1",
        "ip netns add box",
        "ip link add box0 type veth peer name eth0 netns box",
        "ip address add 172.31.9.1/24 dev box0",
        "ip link set box0 up",
        "ip -n box address add 172.31.9.2/24 dev eth0",
        "ip -n box link set eth0 up",
        "ip -n box route add default via 172.31.9.1",
        "nft add table ip published",
        "nft 'add chain ip published pre { type nat hook prerouting priority dstnat; }'",
        "nft 'add chain ip published post { type nat hook postrouting priority srcnat; }'",
        "nft add rule ip published pre iif != box0 tcp dport { 8443, 7777 } dnat to 172.31.9.2:9999",
        "nft add rule ip published post ip saddr 172.31.9.0/24 oif eth0 masquerade",
    ):
        host.check_output(command)
    process = subprocess.Popen(
        ["docker", "exec", NAME, "ip", "netns", "exec", "box", "python3", "-c", ACCEPTING, "9999"]
    )
    time.sleep(0.7)
    yield
    process.terminate()
    host.run("pkill -f 'create_server' ; nft delete table ip published; ip link del box0; ip netns del box")


def test_ports_that_docker_publishes_are_subject_to_the_same_flows(host: Host, published: None) -> None:
    def reaches(source: str, port: int) -> bool:
        code = f"import socket; socket.create_connection(('{ADDRESS}', {port}), timeout=2)"
        return (
            subprocess.run(
                ["docker", "exec", source, "python3", "-c", code], capture_output=True, check=False
            ).returncode
            == 0
        )

    assert reaches(GATEWAY, 8443)
    assert not reaches(GATEWAY, 7777)
    # The way out of a container is nobody's business here.
    code = "import socket; socket.create_connection(('198.18.41.61', 443), timeout=2)"
    listener = subprocess.Popen(["docker", "exec", GATEWAY, "timeout", "20", "python3", "-c", ACCEPTING, "443"])
    time.sleep(0.7)
    try:
        host.check_output(f'ip netns exec box python3 -c "{code}"')
    finally:
        listener.terminate()


def test_outbound_policy(host: Host, tmp_path: Path) -> None:
    def reaches(port: int) -> bool:
        code = f"import socket; s = socket.socket(); s.settimeout(2); s.connect_ex(('198.18.41.1', {port}))"
        host.run(f'python3 -c "{code}"')
        chain = host.check_output("nft list chain inet ai102 output")
        return "counter packets 0 " in chain

    done = ansible(tmp_path, APPLY, "-e", "firewall_output_policy=drop")
    assert done.returncode == 0, done.stdout
    assert reaches(443)
    assert not reaches(9999)


def test_teardown_takes_everything_away_and_applying_puts_it_back(host: Host, before: str, tmp_path: Path) -> None:
    assert "changed=1 " in ansible(tmp_path, TEARDOWN).stdout
    assert host.run("nft list table inet ai102").rc != 0
    assert not host.file("/etc/ai102/firewall").exists
    assert not host.file("/etc/systemd/system/ai102-firewall.service").exists
    assert "changed=0 " in ansible(tmp_path, TEARDOWN).stdout
    done = ansible(tmp_path, APPLY)
    assert done.returncode == 0, done.stdout
    assert table(host) == before


def test_the_host_starts_with_its_rules(host: Host, before: str) -> None:
    subprocess.run(["docker", "restart", "--time", "5", NAME], check=True, capture_output=True)
    deadline = time.monotonic() + 30
    while host.run("systemctl is-system-running").stdout.strip() not in ("running", "degraded"):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert table(host) == before
