"""Metrics of a host's GPUs, asked for as a monitoring host does."""

from __future__ import annotations

import re

from testinfra.host import Host

UNIT = "ai102-gpu-exporter.service"
CLIENT = "/etc/ai102/pki/client"

ASK = f"""
import http.client, ssl, sys
context = ssl.create_default_context(cafile='/etc/ai102/pki/server_ca.pem')
'anonymous' in sys.argv or context.load_cert_chain('{CLIENT}/fullchain.pem', '{CLIENT}/key.pem')
connection = http.client.HTTPSConnection(sys.argv[1], 9400, timeout=10, context=context)
connection.request('GET', '/metrics')
answer = connection.getresponse()
print(answer.status, answer.getheader('Content-Type')); print(answer.read().decode())
"""


def ask(host: Host, *options: str) -> tuple[int, str]:
    """Exit status of a scrape, and what was printed."""
    address = host.check_output("hostname -i").split()[0]
    done = host.run("python3 -c %s %s " + " ".join(options), ASK, address)
    return done.rc, done.stdout + done.stderr


def shown(host: Host, *properties: str) -> dict[str, str]:
    """Properties of the unit as systemd has them in force."""
    lines = host.check_output(f"systemctl show {UNIT} --property={','.join(properties)}").splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_a_host_without_gpus_says_so(host: Host) -> None:
    status, text = ask(host)
    assert status == 0, text
    assert text.startswith("200 text/plain; version=0.0.4")
    assert re.search(r"^ai102_gpus 0\.0$", text, re.MULTILINE)
    assert re.search(r'^ai102_gpu_driver_up\{reason=".+"\} 0\.0$', text, re.MULTILINE)
    assert "DCGM_FI_DEV" not in text


def test_nobody_is_answered_without_a_client_certificate(host: Host) -> None:
    status, text = ask(host, "anonymous")
    assert status != 0
    assert "ai102_gpus" not in text
    assert re.search("certificate.required", text, re.IGNORECASE), text


def test_runs_as_its_own_user_within_limits(host: Host) -> None:
    properties = shown(host, "User", "MemoryMax", "CPUQuotaPerSecUSec", "NoNewPrivileges", "ActiveState", "NRestarts")
    assert properties == {
        "User": "ai102",
        "MemoryMax": str(256 * 1024 * 1024),
        "CPUQuotaPerSecUSec": "500ms",
        "NoNewPrivileges": "yes",
        "ActiveState": "active",
        "NRestarts": "0",
    }
    score = re.search(r"([\d.]+) \w+", host.check_output(f"systemd-analyze security {UNIT} --no-pager | tail -1"))
    assert score is not None
    assert float(score[1]) < 2.0, "how exposed systemd finds it, of 10"


def test_comes_back_after_a_crash(host: Host) -> None:
    before = shown(host, "MainPID")["MainPID"]
    host.check_output(f"systemctl kill --signal=KILL {UNIT}")
    host.check_output(
        f"for i in $(seq 100); do [ $(systemctl show -P MainPID {UNIT}) != {before} ] && systemctl -q is-active {UNIT} "
        "&& exit 0; sleep 0.1; done; exit 1"
    )
    assert ask(host)[0] == 0
    host.check_output(f"systemctl restart {UNIT}")  # the count of restarts starts anew


def test_a_renewed_certificate_is_taken_without_a_restart(host: Host) -> None:
    before = shown(host, "MainPID")["MainPID"]
    host.check_output("touch /etc/ai102/pki/server/fullchain.pem")
    assert ask(host)[0] == 0
    assert shown(host, "MainPID")["MainPID"] == before


def test_what_it_runs_from_is_kept(host: Host) -> None:
    """The environment of the exporter counts as used, though no inference server runs from it."""
    target = host.check_output("readlink -f /opt/ai102/gpu_exporter/current/environment")
    assert target.startswith("/opt/ai102/environments/")
    assert host.file(f"{target}/bin/ai102-server").exists
