"""What an inference host does once the role is done with it."""

from __future__ import annotations

import hashlib
import json
import time

import pytest
from testinfra.host import Host

UNIT = "ai102-inference-server.service"
CERTIFICATE = "/etc/ai102/pki/client"


def ask(host: Host, path: str, *options: str) -> tuple[int, str]:
    """Status and body of a request to the host's own address, with its client certificate unless options say less."""
    script = (
        "import http.client, ssl, sys\n"
        "context = ssl.create_default_context(cafile='/etc/ai102/pki/server_ca.pem')\n"
        f"'anonymous' in sys.argv or context.load_cert_chain('{CERTIFICATE}/fullchain.pem', '{CERTIFICATE}/key.pem')\n"
        "connection = http.client.HTTPSConnection(sys.argv[1], 8443, timeout=10, context=context)\n"
        "connection.request('GET', sys.argv[2])\n"
        "answer = connection.getresponse()\n"
        "print(answer.status); print(answer.read().decode())\n"
    )
    address = host.check_output("hostname -i").split()[0]
    done = host.run("python3 -c %s %s %s " + " ".join(options), script, address, path)
    if done.rc != 0:
        return 0, done.stderr
    status, _newline, body = done.stdout.partition("\n")
    return int(status), body


def shown(host: Host, *properties: str) -> dict[str, str]:
    """Properties of the unit as systemd has them in force."""
    lines = host.check_output(f"systemctl show {UNIT} --property={','.join(properties)}").splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_ready_on_the_provider_that_was_asked_for(host: Host) -> None:
    status, body = ask(host, "/v2/health/ready")
    assert status == 200
    answer = json.loads(body)
    assert [(model["name"], model["provider"]) for model in answer["models"]] == [("file-type", "CPUExecutionProvider")]
    assert answer["release"] == host.check_output("basename $(readlink /opt/ai102/inference_server/current)")


def test_nobody_is_answered_without_a_client_certificate(host: Host) -> None:
    status, error = ask(host, "/v2/health/ready", "anonymous")
    assert status == 0
    assert "certificate required" in error.lower() or "certificate_required" in error.lower() or "SSL" in error


def test_metrics(host: Host) -> None:
    status, body = ask(host, "/metrics")
    assert status == 200
    assert "ai102_inflight_requests" in body


def test_runs_as_its_own_user_with_limits(host: Host) -> None:
    found = shown(host, "User", "CPUQuotaPerSecUSec", "MemoryMax", "MemoryHigh", "NoNewPrivileges", "Restart")
    assert found == {
        "User": "ai102",
        "CPUQuotaPerSecUSec": "1.500000s",
        "MemoryMax": str(2 * 1024**3),
        "MemoryHigh": str(1800 * 1024**2),
        "NoNewPrivileges": "yes",
        "Restart": "always",
    }


def test_exposure_is_low(host: Host) -> None:
    """The figure that ``systemd-analyze security`` gives, 0 to 10."""
    last = host.check_output(f"systemd-analyze security --no-pager {UNIT}").splitlines()[-1]
    assert float(last.partition(":")[2].split()[0]) < 2.0


def test_the_model_is_encrypted_on_the_host(host: Host) -> None:
    """It is served all the same, and only root and the server have its key."""
    path = "/var/lib/ai102/models/file-type/1"
    manifest = json.loads(host.file(f"{path}/manifest.json").content_string)
    encryption = {entry["path"]: entry.get("encryption") for entry in manifest["files"]}
    assert encryption["golden.json"] is None
    assert hashlib.sha256(host.file(f"{path}/model.onnx").content).hexdigest() != encryption["model.onnx"]["sha256"]
    key = f"/etc/ai102/model_keys/{encryption['model.onnx']['key']}.key"
    assert f"file: {key}" in host.file("/opt/ai102/inference_server/current/config.yml").content_string
    assert host.check_output(f"stat -c '%U %G %a' {key} /etc/ai102/model_keys").splitlines() == [
        "root ai102 640",
        "root ai102 750",
    ]
    secret = host.file(key).content_string.strip()
    assert len(bytes.fromhex(secret)) == 32
    assert host.run("grep -rlF %s /opt/ai102 /var/lib/ai102 /var/log /run/ai102-inference-server", secret).stdout == ""


def test_cannot_write_its_own_code_or_models(host: Host) -> None:
    for path in ("/opt/ai102/inference_server", "/var/lib/ai102/models", "/etc/ai102"):
        assert host.run("runuser -u ai102 -- test -w %s", path).rc != 0


def test_starts_with_its_host(host: Host) -> None:
    assert host.service(UNIT).is_enabled


def test_comes_back_after_a_crash(host: Host) -> None:
    before = shown(host, "MainPID")["MainPID"]
    host.check_output(f"systemctl kill --signal=KILL {UNIT}")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = shown(host, "ActiveState", "MainPID")
        if found["ActiveState"] == "active" and found["MainPID"] not in {"0", before}:
            break
        time.sleep(0.5)
    else:
        pytest.fail("the server did not come back within 30 seconds")
    assert ask(host, "/v2/health/ready")[0] == 200


def test_logs_no_payload_and_is_json(host: Host) -> None:
    assert ask(host, "/v2/models/file-type")[0] == 200
    lines = [
        line
        for line in host.check_output(f"journalctl --unit {UNIT} --output cat --no-pager").splitlines()
        if line.startswith("{")
    ]
    assert any(json.loads(line)["message"] == "serving" for line in lines)
