"""One host in every tier: it serves, and changes without a failed request although there is nobody to take over."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rolled_out import CA_BUNDLE, PROJECT, STATE, Load, Play, SiteHost, another_release

HOST, NAME = "ai102-mol-single-host", "inference.single.test"
MODEL = "/v2/models/file-type/infer"
PASSWORD = "only-for-tests-1"
MODELS = [
    {"name": "file-type", "version": "1", "source": {"lock": "file-type"}},
    {
        "name": "text-line-orientation",
        "version": "1",
        "source": {"lock": "text-line-orientation"},
        "serving": {"tags": ["tenant:acme"]},
    },
]
ACCOUNTS = [
    {"name": "alice", "role": "user", "password": PASSWORD},
    {"name": "eve", "role": "viewer", "password": PASSWORD},
]


class Client:
    """Asks the gateway as somebody outside does, over TLS that is verified."""

    def __init__(self, host: SiteHost) -> None:
        self._address = host.address
        golden = json.loads((PROJECT / "roles/model_store/files/golden/file-type.json").read_text())
        self.request: dict[str, Any] = golden["requests"][0]["request"]

    def ask(self, method: str, path: str, body: object = None, token: str = "") -> tuple[int, dict[str, Any]]:
        """Send one request; give the status and the body of the answer."""
        connection = http.client.HTTPSConnection(NAME, timeout=20)
        plain = socket.create_connection((self._address, 443), 20)
        connection.sock = ssl.create_default_context(cafile=str(CA_BUNDLE)).wrap_socket(plain, server_hostname=NAME)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        payload = None if body is None else json.dumps(body)
        connection.request(method, path, payload, {**headers, "Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.status, json.loads(response.read() or b"{}")
        connection.close()
        return answer

    def log_in(self, name: str, password: str = PASSWORD) -> tuple[int, dict[str, Any]]:
        """Ask for a token."""
        return self.ask("POST", "/auth/token", {"username": name, "password": password})


def test_a_new_release_fails_no_request(
    load: Callable[[int], Load], hosts: dict[str, SiteHost], play: Play, tmp_path: Path
) -> None:
    host = hosts["ai102-mol-single-host"]
    before = host.sh("readlink /opt/ai102/inference_server/current")
    source = another_release(tmp_path, "# another release")
    running = load(600)
    played = play("--extra-vars", f"artifacts_server_source={source}")
    assert running.process.poll() is None, "the load ended before the rollout"
    figures = running.end()
    assert played.returncode == 0, played.output[-3000:]
    assert figures["failed"] == 0, figures
    assert figures["requests"] > 100
    assert host.sh("readlink /opt/ai102/inference_server/current") != before


def page_headers(host: SiteHost, path: str, *options: str) -> tuple[str, str]:
    """Ask with curl; give the headers and the body."""
    url = f"https://{NAME}/hosts/{HOST}/{path}"
    command = ["curl", "--silent", "--include", "--http1.1", "--cacert", str(CA_BUNDLE)]
    resolve = ["--resolve", f"{NAME}:443:{host.address}"]
    answer = subprocess.run([*command, *resolve, *options, url], capture_output=True, text=True, check=True).stdout
    head, _empty, body = answer.replace("\r\n", "\n").partition("\n\n")
    return head, body


def test_the_page_is_there_with_its_own_policy_of_content(hosts: dict[str, SiteHost]) -> None:
    host = hosts[HOST]
    for path in ("", "page/page.js", "page/style.css", "page/icon.svg", "openapi.json", "v2", "v2/models/stats"):
        assert " 200 " in page_headers(host, path)[0].splitlines()[0], path
    head, body = page_headers(host, "")
    assert "<title>Inference server</title>" in body
    policies = [line for line in head.splitlines() if line.lower().startswith("content-security-policy:")]
    assert len(policies) == 1
    assert "script-src 'self'" in policies[0]
    client = Client(host)
    index = client.ask("POST", f"/hosts/{HOST}/v2/repository/index", {})
    assert (index[0], [model["name"] for model in index[1]]) == (200, ["file-type"])
    assert client.ask("POST", f"/hosts/{HOST}{MODEL}", client.request)[0] == 200
    assert client.ask("POST", f"/hosts/{HOST}/v2/repository/models/file-type/load", {})[0] == 404
    assert client.ask("GET", f"/hosts/{HOST}/metrics")[0] == 404


def test_accounts_are_asked_for_from_the_moment_there_are_some(
    hosts: dict[str, SiteHost], play: Play, tmp_path: Path
) -> None:
    host, client = hosts[HOST], Client(hosts[HOST])
    assert client.ask("POST", MODEL, client.request)[0] == 200
    assert client.log_in("alice")[0] == 404

    def roll_out(accounts: list[dict[str, Any]], *more: str) -> Any:
        file = tmp_path / "accounts.json"
        file.write_text(json.dumps({"ai102_accounts": accounts, "ai102_models": MODELS}))
        return play("--extra-vars", f"@{file}", *more)

    refused = roll_out([{**ACCOUNTS[0], "rolle": "user"}])
    assert refused.returncode != 0
    assert not refused.changed
    checked = roll_out(ACCOUNTS, "--check", "--diff", "--tags", "serving")
    assert checked.returncode == 0, checked.output[-3000:]
    assert client.ask("POST", MODEL, client.request)[0] == 200
    assert not (STATE / "secrets/token_signing.key").exists()

    played = roll_out(ACCOUNTS, "--diff")
    assert played.returncode == 0, played.output[-3000:]
    key = host.sh("cat /etc/ai102/access/keys/site.pem").splitlines()[1]
    for secret in (PASSWORD, "$argon2id$", key):
        assert secret not in played.output
    assert host.sh("stat -c '%a %U %G' /etc/ai102/access/keys/site.pem /etc/ai102/access/accounts.yml") == (
        "640 root ai102\n640 root ai102"
    )

    assert client.ask("POST", MODEL, client.request)[0] == 401
    assert client.ask("GET", "/v2/health/ready")[0] == 200
    assert " 200 " in page_headers(host, "")[0].splitlines()[0]
    assert client.ask("GET", f"/hosts/{HOST}/v2/models/stats")[0] == 401
    assert client.log_in("alice", "wrong")[0] == 400
    status, told = client.log_in("alice")
    assert (status, told["role"]) == (200, "user")
    assert client.ask("POST", MODEL, client.request, told["access_token"])[0] == 200
    assert client.ask("POST", MODEL, client.request, told["access_token"][:-4] + "AAAA")[0] == 401
    assert client.ask("POST", MODEL, client.request, client.log_in("eve")[1]["access_token"])[0] == 403
    # A model of a tenant: its golden answers were asked for with a token of that tenant, and others may not have any.
    assert client.ask("GET", "/v2/models/text-line-orientation", token=told["access_token"])[0] == 403
    assert client.ask("GET", "/auth/jwks.json")[1]["keys"][0]["crv"] == "Ed25519"
    # What the log says of a request has neither the token nor its owner's password.
    lines = host.sh(
        "journalctl --unit ai102-inference-server --output cat; cat /var/log/nginx/*.json /var/log/nginx/*.log"
    )
    assert told["access_token"] not in lines
    assert PASSWORD not in lines

    # As the README shows it.
    form = ["-d", "username=alice", "--data-urlencode", "password@-", f"https://{NAME}/auth/token"]
    asked = subprocess.run(
        ["curl", "--silent", "--cacert", str(CA_BUNDLE), "--resolve", f"{NAME}:443:{host.address}", *form],
        input=PASSWORD,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(asked.stdout)["role"] == "user"

    # What the server would not start with is never put in place.
    accounts = host.sh("sha256sum /etc/ai102/access/accounts.yml")
    mistyped = roll_out([{**ACCOUNTS[0], "role": "usr"}])
    assert mistyped.returncode != 0
    assert "has the role 'usr', which policy does not know" in mistyped.flat
    assert host.sh("sha256sum /etc/ai102/access/accounts.yml; ls -A /etc/ai102 | grep '[.]access' || true") == accounts

    # An account that goes takes its tokens along, and the server is not restarted for it.
    running = host.sh("systemctl show --property=ExecMainPID --value ai102-inference-server")
    again = roll_out(ACCOUNTS[1:])
    assert again.returncode == 0, again.output[-3000:]
    assert again.changed == {HOST: 1}
    assert host.sh("systemctl show --property=ExecMainPID --value ai102-inference-server") == running
    assert client.ask("POST", MODEL, client.request, told["access_token"])[0] == 401


def test_without_accounts_everybody_may_ask_again(hosts: dict[str, SiteHost], play: Play) -> None:
    client = Client(hosts[HOST])
    assert play().returncode == 0
    assert client.ask("POST", MODEL, client.request)[0] == 200
    assert client.log_in("eve")[0] == 404
    # The way back is to the release that asks for tokens, with the accounts that it had.
    back = play(playbook="playbooks/rollback.yml")
    assert back.returncode == 0, back.output[-3000:]
    assert client.ask("POST", MODEL, client.request)[0] == 401


def test_the_only_host_is_not_drained(hosts: dict[str, SiteHost], play: Play) -> None:
    played = play("--limit", "ai102-mol-single-host", playbook="playbooks/drain.yml")
    assert played.returncode != 0
    assert "last" in played.flat


def test_teardown_leaves_nothing(hosts: dict[str, SiteHost], play: Play) -> None:
    refused = play(playbook="playbooks/teardown.yml")
    assert refused.returncode != 0
    assert "teardown_confirm=inference.single.test" in refused.flat
    played = play("--extra-vars", "teardown_confirm=inference.single.test", playbook="playbooks/teardown.yml")
    assert played.returncode == 0, played.output[-3000:]
    host = hosts["ai102-mol-single-host"]
    assert host.sh("ls -d /etc/ai102 /opt/ai102 /var/lib/ai102 2>/dev/null || true") == ""
    assert host.sh("systemctl list-units --all --plain --no-legend 'ai102*'") == ""
    assert "ai102" not in host.sh("nft list tables 2>/dev/null || true")
    assert host.sh("ss -Htln | grep -E ':(443|8443|9443) ' || true") == ""
    assert "ai102" not in host.sh("getent passwd || true")
