# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ipaddress
import json
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import flask
import pytest
import yaml
from werkzeug.serving import make_server

from access_kit import Outsider, Site, request, settings
from ai102_server.access import Access, blueprint
from ai102_server.access.accounts import parse_accounts
from ai102_server.cli import main
from ai102_server.config.access import AccessConfig, Limit, read_access
from ai102_server.config.reader import Section
from ai102_server.telemetry.logs import JsonFormatter

ISSUER: dict[str, Any] = {
    "name": "corp",
    "issuer": "https://a.example",
    "audience": "x",
    "jwks_url": "https://a.example/jwks",
    "default_role": "viewer",
}
BASE: dict[str, Any] = {
    "enabled": True,
    "state": "/var/lib/x/access.sqlite",
    "accounts": "/etc/x/accounts.yml",
    "keys": {"directory": "/etc/x/keys"},
}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


def problems(document: object) -> list[str]:
    found: list[str] = []
    read_access(Section(document, "access", found))
    return found


# Configuration ------------------------------------------------------------------------------------------------------
def test_defaults() -> None:
    assert settings({}) == AccessConfig()
    assert not AccessConfig().enabled
    assert AccessConfig().token_seconds == 2 * 3600
    config = settings(BASE)
    assert (config.enabled, config.anonymous, config.policy) == (True, ("health", "page"), None)


def test_everything_can_be_said() -> None:
    config = settings(
        {
            **BASE,
            "anonymous": ["health", "metrics"],
            "policy": "/etc/x/policy.yml",
            "keys": {"directory": "/etc/x/keys", "credential": "keys"},
            "issuer": "me",
            "audience": "you",
            "token_seconds": 600,
            "leeway_seconds": 5,
            "issuers": [{**ISSUER, "algorithms": ["ES256"], "claims": {"role": "r"}, "roles": {"a b": "user"}}],
            "limits": {
                "default": {"requests_per_second": 2.4},
                "roles": {"user": {"requests_per_second": 100, "burst": 7, "concurrent": 3}},
                "subjects": {"corp:a b": {"concurrent": 1}, "uma": {}},
            },
            "trusted_proxies": ["10.0.0.1", "fd00::/8", "unix"],
        }
    )
    assert config.limits.default == Limit(2.4, 2, 0)
    assert config.limits.of("x", "user") == Limit(100.0, 7, 3)
    assert config.limits.of("corp:a b", "user") == Limit(0.0, 0, 1)
    assert config.limits.of("uma", "user").unlimited
    assert config.limits.of("x", "viewer") == Limit(2.4, 2, 0)
    assert config.trusted_proxies == (ipaddress.ip_network("10.0.0.1"), ipaddress.ip_network("fd00::/8"), "unix")
    assert config.issuers[0].roles == {"a b": "user"}
    assert config.keys.given
    # A rate below one a second still lets one request through.
    assert settings({**BASE, "limits": {"default": {"requests_per_second": 0.1}}}).limits.default.burst == 1


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"enabled": "yes"}, "access.enabled: must be true or false"),
        ({"enable": True}, "access.enable: unknown key; did you mean 'enabled'?"),
        ({**BASE, "state": None}, "access.state: is missing: a file in the state directory"),
        ({**BASE, "keys": None}, "access.keys: is missing: tokens of accounts are signed"),
        ({**BASE, "accounts": None}, "access.accounts: is missing: only accounts get tokens"),
        ({"enabled": True, "state": "/x"}, "access: lets nobody in"),
        ({**BASE, "anonymous": ["helth"]}, "access.anonymous: 'helth' is not an operation; there are infer"),
        ({**BASE, "anonymous": {"health": 1}}, "access.anonymous: must be a list, not a mapping"),
        ({**BASE, "keys": {"directory": "keys"}}, "access.keys.directory: 'keys' must be an absolute path"),
        ({**BASE, "keys": {"credential": "a/b"}}, "access.keys.credential: 'a/b' is no name"),
        ({**BASE, "token_seconds": 59}, "access.token_seconds: 59 is out of range"),
        ({**BASE, "password": {"memory_kib": 100}}, "access.password.memory_kib: 100 is out of range"),
        ({**BASE, "login": {"per_second": 0}}, "access.login.per_second: 0 is out of range"),
        ({**BASE, "login": {"per_second": True}}, "access.login.per_second: must be a number, not true/false"),
        (
            {**BASE, "lockout": {"first_seconds": 60, "longest_seconds": 5}},
            "access.lockout.longest_seconds: is less than",
        ),
        ({**BASE, "limits": {"default": {"burst": 5}}}, "access.limits.default.burst: has no meaning without"),
        ({**BASE, "limits": {"default": {"rate": 5}}}, "access.limits.default.rate: unknown key"),
        ({**BASE, "limits": {"roles": {"a b": {}}}}, "access.limits.roles.a b: 'a b' is no name"),
        ({**BASE, "limits": {"roles": {"user": 7}}}, "access.limits.roles.user: must be a mapping"),
        ({**BASE, "limits": {"subjects": {"a b": {}}}}, "access.limits.subjects.a b: 'a b' is no name"),
        ({**BASE, "trusted_proxies": ["10.0.0.1/8"]}, "access.trusted_proxies: '10.0.0.1/8' is not a network"),
        ({**BASE, "issuers": {}}, "access.issuers: must be a list"),
        ({**BASE, "issuers": [{}]}, "access.issuers[0].name: is missing"),
        ({**BASE, "issuers": [{**ISSUER, "jwks_url": None}]}, "access.issuers[0]: needs either jwks_file or jwks_url"),
        ({**BASE, "issuers": [{**ISSUER, "jwks_file": "/x"}]}, "access.issuers[0]: needs either jwks_file or jwks_url"),
        ({**BASE, "issuers": [{**ISSUER, "default_role": None}]}, "access.issuers[0]: gives nobody a role"),
        ({**BASE, "issuers": [{**ISSUER, "roles": {"a": "b"}}]}, "access.issuers[0].claims.role: is missing"),
        ({**BASE, "issuers": [{**ISSUER, "roles": ["a"]}]}, "access.issuers[0].roles: must be a mapping, not a list"),
        ({**BASE, "issuers": [{**ISSUER, "tenant": "a", "claims": {"tenant": "b"}}]}, "tenant: cannot stand beside"),
        ({**BASE, "issuers": [{**ISSUER, "algorithms": ["HS256"]}]}, "algorithms: 'HS256' is not one of EdDSA"),
        ({**BASE, "issuers": [{**ISSUER, "algorithms": ["none"]}]}, "only asymmetric signatures are accepted"),
        ({**BASE, "issuers": [{**ISSUER, "jwks_url": "http://a.example/"}]}, "must begin with https://"),
        ({**BASE, "issuers": [{**ISSUER, "jwks_url": "file:///etc/passwd"}]}, "must begin with https://"),
        ({**BASE, "issuers": [{**ISSUER, "jwks_url": "https://[a"}]}, "'https://[a' is not a URL"),
        (
            {**BASE, "issuers": [{**ISSUER, "jwks_url": "https://u:p@a.example/"}]},
            "must not hold a user name or password",
        ),
        ({**BASE, "issuers": [ISSUER, {**ISSUER, "name": "b"}]}, "issuer 'https://a.example' is listed twice"),
        ({**BASE, "issuers": [ISSUER, {**ISSUER, "issuer": "b"}]}, "name 'corp' is listed twice"),
        ({**BASE, "issuer": "https://a.example", "issuers": [ISSUER]}, "is this server's own name"),
    ],
)
def test_says_what_is_wrong_and_where(document: object, expected: str) -> None:
    found = problems(document)
    assert len(found) >= 1
    assert any(expected in problem for problem in found), found


def test_a_section_that_is_switched_off_need_not_be_whole() -> None:
    assert problems({"accounts": "/etc/x"}) == []
    assert problems({**BASE, "issuers": [{**ISSUER, "jwks_url": "http://localhost:8080/jwks"}]}) == []


# Command line -------------------------------------------------------------------------------------------------------
def command(*arguments: str | Path, given: str = "") -> int:
    with mock.patch.object(sys, "stdin", StringIO(given)):
        return main([str(argument) for argument in arguments])


def test_accounts_are_managed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "accounts.yml"
    where = ("--accounts", file)
    add = ("account", "add", *where, "--role", "user", "--tenant", "acme", "--attribute", "clearance=high", "uma")
    assert command(*add, given="geheim\n") == 0
    assert command("account", "add", *where, "--role", "admin", "ann", given="x\r\n") == 0
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o640)
    assert command("account", "disable", *where, "uma") == 0
    # A new password does not let a disabled account in again.
    assert command(*add, given="other\n") == 0
    capsys.readouterr()
    assert command("account", "list", *where) == 0
    assert capsys.readouterr().out == "uma\tuser\tacme\tdisabled\tclearance=high\nann\tadmin\t-\tenabled\t-\n"
    assert file.stat().st_mode & 0o777 == 0o640
    assert "geheim" not in file.read_text()
    assert command("account", "enable", *where, "uma") == 0
    assert command("account", "remove", *where, "ann") == 0
    accounts = parse_accounts(yaml.safe_load(file.read_text()), "x")
    assert [(account.name, account.disabled) for account in accounts.values()] == [("uma", False)]
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("arguments", "given", "expected"),
    [
        (("add", "--role", "user", "u"), "", "no password was given on standard input"),
        (("add", "--role", "user", "u"), "a" * 1025, "a password may have 1024 bytes"),
        (("add", "--role", "user", "a b"), "x", "accounts[0].name: 'a b' is no name"),
        (("add", "--role", "user", "--attribute", "x", "u"), "x", "--attribute must be NAME=VALUE, not 'x'"),
        (("disable", "u"), "", "there is no account 'u'"),
        (("remove", "u"), "", "there is no account 'u'"),
    ],
)
def test_accounts_say_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], given: str, expected: str
) -> None:
    file = tmp_path / "accounts.yml"
    assert command("account", arguments[0], "--accounts", file, *arguments[1:], given=given) == 1
    assert expected in capsys.readouterr().err
    assert not file.exists()


def test_accounts_where_nothing_can_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("account", "disable", "--accounts", tmp_path / "no" / "file", "u") == 1
    assert "cannot be opened" in capsys.readouterr().err
    (tmp_path / "file").mkdir()
    assert command("account", "add", "--accounts", tmp_path / "file", "--role", "user", "u", given="x") == 1
    assert "cannot be read" in capsys.readouterr().err


def test_passwords_are_asked_twice_on_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for second, expected in (("geheim", 0), ("gehiem", 1)):
        with mock.patch("getpass.getpass", side_effect=["geheim", second]), mock.patch.object(sys, "stdin") as stdin:
            stdin.isatty.return_value = True
            assert main(["account", "hash"]) == expected
    captured = capsys.readouterr()
    assert captured.out.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert "the two are not the same" in captured.err
    assert not list(tmp_path.iterdir())


def server_config(site: Site, **access: Any) -> Path:
    file = site.path / "config.yml"
    document = {"listen": {"host": "127.0.0.1"}, "models": [], "access": site.document(**access)}
    file.write_text(yaml.safe_dump(document))
    return file


def test_commands_follow_the_configuration(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    config = server_config(site)
    assert command("account", "hash", "--config", config, given="x") == 0
    assert capsys.readouterr().out.startswith("$argon2id$v=19$m=8192,t=1,p=1$")
    assert command("account", "list", "--config", config) == 0
    assert capsys.readouterr().out.splitlines()[0] == "ann\tadmin\t-\tenabled\t-"
    config = server_config(site, accounts=None, keys=None, issuers=[Outsider(site.path).document()])
    assert command("account", "list", "--config", config) == 1
    assert "does not say access.accounts" in capsys.readouterr().err


def test_keys_are_made_and_used(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    gate = site.load()
    keys = site.path / "keys"
    (keys / "1.pem").rename(keys / "0.pem")
    for algorithm in ("EdDSA", "RS256"):
        assert command("token", "new-key", "--directory", keys, "--algorithm", algorithm) == 0
        assert f"({algorithm}, kid " in capsys.readouterr().err
    made = sorted(path for path in keys.iterdir() if path.name != "0.pem")
    assert [path.stat().st_mode & 0o777 for path in made] == [0o600, 0o600]
    gate.poll()
    assert len(gate.tokens.keys.verifying) == 3
    assert gate.tokens.keys.kid[:8] == made[-1].stem.partition("-")[2]
    assert command("token", "new-key", "--directory", site.path / "accounts.yml") == 1
    assert "cannot be written" in capsys.readouterr().err
    assert command("token", "new-key", "--directory", site.path / "more" / "keys") == 0
    assert (site.path / "more" / "keys").stat().st_mode & 0o777 == 0o700


def test_tokens_are_verified(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    config = server_config(site)
    assert command("token", "verify", "--config", config, given="x") == 1
    assert "the server has never run with this configuration" in capsys.readouterr().err
    gate = site.load()
    token = site.token(gate)
    assert command("token", "verify", "--config", config, given=f"{token}\n") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["subject"], found["role"], found["tenant"]) == ("uma", "user", "acme")
    gate.revoke_token(found["jti"])
    assert command("token", "verify", "--config", config, given=token) == 1
    assert "the token is not accepted: revoked" in capsys.readouterr().err
    assert command("token", "verify", "--config", server_config(site, enabled=False), given=token) == 1
    assert "access.enabled is false" in capsys.readouterr().err


@pytest.fixture
def served(site: Site) -> Iterator[tuple[str, Access]]:
    """A server with nothing but the routes of tokens."""
    import threading

    gate = site.load()
    app = flask.Flask("test")
    app.register_blueprint(blueprint(gate))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", gate
    server.shutdown()
    server.server_close()


def test_a_server_is_asked_for_tokens(served: tuple[str, Access], capsys: pytest.CaptureFixture[str]) -> None:
    url, gate = served
    assert command("token", "--url", url, "--name", "uma", given="right\n") == 0
    token = capsys.readouterr().out.strip()
    assert gate.verify(token).subject == "uma"
    assert command("token", "--url", url, "--name", "uma", given="wrong\n") == 1
    assert "answers 400: name or password is wrong" in capsys.readouterr().err
    assert command("token", "--url", url, "--name", "ann", given="right") == 0
    admin = capsys.readouterr().out.strip()
    assert command("token", "revoke", "--url", url, "--subject", "uma", given=token) == 1
    assert "answers 403" in capsys.readouterr().err
    assert command("token", "revoke", "--url", url, "--subject", "uma", given=admin) == 0
    assert command("token", "revoke", "--url", url, given=admin) == 0
    capsys.readouterr()
    assert command("token", "revoke", "--url", url, "--jti", "x", given=admin) == 1
    assert "answers 401" in capsys.readouterr().err
    assert not gate.allows(request(token), "infer", None)


def test_tokens_say_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("token", given="x") == 1
    assert "--name is missing" in capsys.readouterr().err
    assert command("token", "--name", "uma", given="x") == 1
    assert "--url is missing" in capsys.readouterr().err
    assert command("token", "--name", "uma", "--url", "http://127.0.0.1:9", given="x") == 1
    assert "cannot be asked" in capsys.readouterr().err
    assert command("token", "--name", "uma", "--url", "ftp://x", given="x") == 1
    assert "must begin with http" in capsys.readouterr().err


def test_audit_lines_are_json(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "ai102_server")
    gate = site.load()
    gate.revoke_subject("x")
    gate.audit.event("token.issued", "success", environ={"HTTP_X_REQUEST_ID": "r"}, source="a" * 500, jti="")
    line = json.loads(JsonFormatter().format(caplog.records[-1]))
    assert (line["event"], line["logger"], line["level"]) == ("token.issued", "ai102_server.audit", "info")
    assert (len(line["source"]), line["request_id"], "jti" in line) == (200, "r", False)
