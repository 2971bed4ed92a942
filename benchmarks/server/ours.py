# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Our own server: a model package of the benchmark's model, a configuration with all features on or off, a token."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import yaml
from environments import CACHE, ROOT, Failure, say
from wire import CODES, Feed, Samples, v2_json

SERVER = ROOT / "server" / "src"
DIRECTORY = CACHE / "ours"
VERSION = "1"
MAX_BODY = 64 * 1024 * 1024
ACCOUNT = "benchmark"
_told: set[str] = set()
_password = secrets.token_urlsafe()


def command(bin_: Path, _port: int) -> list[str]:
    """Start the server of this checkout."""
    return [str(bin_ / "python"), "-m", "ai102_server", "serve", "--config", str(DIRECTORY / "config.yml")]


def package(samples: Samples, directory: Path, version: str = VERSION, model: Path | None = None) -> Path:
    """Write an unsigned model package with one golden answer. ``model``: another file than the samples'."""
    target = directory / samples.model / version
    target.mkdir(parents=True, exist_ok=True)
    source = model or samples.directory / "model.onnx"
    if not (target / "model.onnx").is_file() or (target / "model.onnx").read_bytes() != source.read_bytes():
        (target / "model.onnx").write_bytes(source.read_bytes())
    # One golden answer: the server finds with it whether batches pay.
    golden = {"request": v2_document(samples.feeds[0]), "response": {"outputs": [answer_of(samples, 0)]}}
    (target / "golden.json").write_bytes(_json({"requests": [golden]}))
    files = [
        {"path": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": path.stat().st_size}
        for path in (target / "golden.json", target / "model.onnx")
    ]
    manifest = {"schema": 1, "name": samples.model, "version": version, "golden": "golden.json", "files": files}
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


def _json(document: object) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def v2_document(feed: Feed) -> dict[str, Any]:
    """A V2 request as a document."""
    document: dict[str, Any] = orjson.loads(v2_json("", feed).body)
    return document


def answer_of(samples: Samples, index: int) -> dict[str, Any]:
    """The output that answers a sample, as V2 describes it."""
    answer = samples.answers[index]
    shape, datatype = list(answer.shape), CODES[answer.dtype.name]
    return {"name": samples.output, "shape": shape, "datatype": datatype, "data": answer.ravel()}


def configuration(
    samples: Samples, port: int, *, on: bool, package_it: bool = True, engine: str = "auto"
) -> dict[str, Any]:
    """The configuration: the session options of the benchmark, and every feature that costs, or none."""
    path = package(samples, DIRECTORY / "models") if package_it else samples.directory
    return {
        "listen": {"host": "127.0.0.1", "port": port},
        "workers": 2,
        "models": [
            {"name": samples.model, "version": VERSION, "path": str(path)},
        ],
        "execution": {"intra_op_threads": 1, "inter_op_threads": 1, "allow_spinning": False, "engine": engine},
        "limits": {"max_body_bytes": MAX_BODY},
        "log": {"level": "info", "access": on},
        "access": access() if on else {"enabled": False},
    }


def access() -> dict[str, Any]:
    """Accounts, keys, a policy with roles, attributes and time, and limits that count but never bite."""
    directory = DIRECTORY / "access"
    (directory / "keys").mkdir(parents=True, exist_ok=True)
    accounts = directory / "accounts.yml"
    if ACCOUNT not in _told:
        _told.add(ACCOUNT)
        accounts.unlink(missing_ok=True)
        cli("account", "add", "--accounts", str(accounts), ACCOUNT, "--role", "operator", "--tenant", "north",
             secret=_password)  # fmt: skip
        if not any((directory / "keys").iterdir()):
            cli("token", "new-key", "--directory", str(directory / "keys"))
    early = {"days": ["sun"], "from": "03:00", "to": "03:01"}
    common = {"effect": "deny", "roles": ["viewer"], "operations": ["infer"]}
    policy = {
        "rules": [
            {"name": "maintenance", **common, "times": [early]},
            {"name": "outside", **common, "networks": ["203.0.113.0/24"]},
        ]
    }
    (directory / "policy.yml").write_text(yaml.safe_dump(policy))
    return {
        "enabled": True,
        "state": str(directory / "state"),
        "accounts": str(accounts),
        "keys": {"directory": str(directory / "keys")},
        "policy": str(directory / "policy.yml"),
        "anonymous": ["health"],
        "limits": {"default": {"requests_per_second": 1000000, "burst": 1000000, "concurrent": 10000}},
    }


def cli(*arguments: str, secret: str = "") -> None:
    """Run a command of the server of this checkout. Raises Failure."""
    command = [sys.executable, "-m", "ai102_server", *arguments]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(SERVER)}, input=secret + "\n", capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Failure(f"ai102-server {' '.join(arguments[:2])}: {done.stderr.strip()}")


def without_unknown_keys(document: dict[str, Any]) -> dict[str, Any]:
    """Leave out what this version of the server does not know yet, and say so. Raises Failure for other mistakes."""
    if str(SERVER) not in sys.path:
        sys.path.insert(0, str(SERVER))
    from ai102_server.config import parse_config
    from ai102_server.errors import ConfigError

    while True:
        try:
            parse_config(document)
            return document
        except ConfigError as error:
            unknown = [found[1] for text in error.problems if (found := re.match(r"(\S+): unknown key", text))]
            if len(unknown) != len(error.problems):
                raise Failure(f"the server does not take the benchmark's configuration: {error}") from error
            for path in unknown:
                *parents, last = path.split(".")
                place = document
                for parent in parents:
                    place = place[parent]
                del place[last]
                if path not in _told:
                    _told.add(path)
                    say(f"note: the server has no setting '{path}'; measured without it")


def write(document: dict[str, Any]) -> None:
    """Write the configuration where ``command`` finds it."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    (DIRECTORY / "config.yml").write_text(yaml.safe_dump(without_unknown_keys(document)))


def prepare(samples: Samples, port: int, *, on: bool, engine: str) -> None:
    """Write package and configuration."""
    write(configuration(samples, port, on=on, engine=engine))


def headers(port: int, *, on: bool) -> dict[str, str]:
    """Log in, when that is asked for. Raises Failure."""
    if not on:
        return {}
    status, body = post(port, "/auth/token", {"username": ACCOUNT, "password": _password})
    if status != http.client.OK:
        raise Failure(f"no token: {status} {body[:200]!r}")
    return {"Authorization": f"Bearer {json.loads(body)['access_token']}"}


def post(port: int, path: str, document: object, extra: dict[str, str] | None = None) -> tuple[int, bytes]:
    """Send JSON, return status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, json.dumps(document), {"Content-Type": "application/json", **(extra or {})})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
