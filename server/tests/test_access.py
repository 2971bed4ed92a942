# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flask
import jwt
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flask.testing import FlaskClient

from access_kit import AUDIENCE, Model, Outsider, Site, hashed, jwk, pem, public_pem, request, rsa_key, settings
from ai102_server.access import REQUEST_ID_KEY, Access, AccessShared, Ticket, blueprint
from ai102_server.access.identity import ANONYMOUS
from ai102_server.access.keys import thumbprint
from ai102_server.access.login import Login, WrongPasswordError
from ai102_server.access.tokens import LONGEST_TOKEN, RefusedError, bearer
from ai102_server.config.access import OPERATIONS
from ai102_server.errors import ConfigError, RequestError, ServerError
from fuzz.fuzz_tokens import cases, run

Facts = dict[str, Any]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


@pytest.fixture
def audit(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "ai102_server")
    return caplog


def events(log: pytest.LogCaptureFixture) -> list[Facts]:
    """Audit events so far, with the facts that identify them; forgets them."""
    keys = ("event", "outcome", "subject", "role", "operation", "model", "source", "reason", "request_id", "seconds")
    found = [
        {key: value for key, value in vars(record).items() if key in keys}
        for record in log.records
        if record.name == "ai102_server.audit"
    ]
    log.clear()
    return found


def refusal(
    gate: Access, environ: dict[str, Any], operation: str = "infer", model: Model | None = None
) -> RequestError:
    with pytest.raises(RequestError) as caught:
        gate.enter(environ, operation, model)
    return caught.value


def status(gate: Access, environ: dict[str, Any], operation: str = "infer", model: Model | None = None) -> int:
    try:
        gate.enter(environ, operation, model).close()
    except RequestError as error:
        return error.status
    return 200


# The gate -----------------------------------------------------------------------------------------------------------
def test_nothing_is_asked_of_anybody_when_it_is_switched_off() -> None:
    gate = Access.load(settings({}))
    assert not gate.enabled
    assert all(status(gate, request("nonsense"), operation) == 200 for operation in OPERATIONS)
    assert all(gate.allows(request(), operation, None) for operation in OPERATIONS)
    ticket = gate.enter(request("nonsense"), "infer", None)
    assert (ticket.subject, ticket.tenant, ticket.role) == ("", "", "anonymous")
    gate.close()


def test_a_token_opens_what_its_role_may(site: Site) -> None:
    gate = site.load()
    environ = request(site.token(gate, "uma"))
    ticket = gate.enter(environ, "infer", Model())
    assert (ticket.subject, ticket.role, ticket.tenant) == ("uma", "user", "acme")
    assert gate.enter(environ, "infer", Model()) is ticket
    ticket.close()
    ticket.close()
    assert status(gate, environ, "infer", Model(tags=frozenset({"tenant:acme"}))) == 200
    assert status(gate, environ, "infer", Model(tags=frozenset({"tenant:other"}))) == 403
    assert status(gate, environ, "repository.load", Model()) == 403
    assert status(gate, request(site.token(gate, "ann")), "accounts") == 200


def test_without_a_token_only_open_operations_are_answered(site: Site) -> None:
    gate = site.load()
    assert [name for name in OPERATIONS if status(gate, request(), name) == 200] == ["health", "page"]
    error = refusal(gate, request())
    assert error.status == 401
    assert error.headers == {"WWW-Authenticate": 'Bearer realm="ai102"'}
    # Open operations ask for nothing: a probe with an old token is answered as well.
    assert status(gate, request("nonsense"), "health") == 200
    closed = site.load(anonymous=[])
    # By the policy, whoever has no token may still ask for health.
    assert status(closed, request(), "health") == 200
    assert status(closed, request(), "page") == 401
    assert status(closed, request("nonsense"), "health") == 401


def test_refusals_say_what_but_not_why(site: Site) -> None:
    gate = site.load()
    error = refusal(gate, request("abc"))
    assert error.status == 401
    assert error.headers == {"WWW-Authenticate": 'Bearer realm="ai102", error="invalid_token"'}
    assert "abc" not in error.message
    error = refusal(gate, request(site.token(gate)), "repository.load", Model("x" * 300))
    assert error.status == 403
    assert error.message == f"role 'user' does not permit repository.load model '{'x' * 100}'"
    assert refusal(gate, request(site.token(gate)), "accounts").message == "role 'user' does not permit accounts"


def test_audit_says_who_did_what_from_where(site: Site, audit: pytest.LogCaptureFixture) -> None:
    gate = site.load(trusted_proxies=["10.0.0.1"])
    operator = site.token(gate, "otto")
    environ = request(operator, "10.0.0.1", x_forwarded_for="203.0.113.9", x_request_id="r-1")
    for _ in range(2):
        gate.enter(environ, "repository.load", Model("bert", "2"))
    gate.enter(environ, "infer", Model("bert", "2"))
    expected = {
        "event": "allowed", "outcome": "success", "subject": "otto", "role": "operator",
        "operation": "repository.load", "model": "bert/2", "source": "203.0.113.9", "request_id": "r-1",
    }  # fmt: skip
    assert events(audit) == [expected, expected]
    for _ in range(2):
        refusal(gate, environ | {REQUEST_ID_KEY: "r-2"}, "accounts")
    denied = {
        "event": "denied", "outcome": "denied", "subject": "otto", "role": "operator", "operation": "accounts",
        "source": "203.0.113.9", "request_id": "r-2", "reason": "no rule allows it",
    }  # fmt: skip
    assert events(audit) == [denied, denied]
    refusal(gate, request(x_request_id="bad id\n"), "infer", Model("m", ""))
    assert events(audit) == [
        {
            "event": "denied", "outcome": "denied", "role": "anonymous", "operation": "infer", "model": "m",
            "source": "192.0.2.1", "reason": "no token",
        }
    ]  # fmt: skip
    refusal(gate, request(operator[:-4] + "AAAA"))
    (wrong,) = events(audit)
    assert wrong["reason"] == "token: wrong signature"
    assert operator not in audit.text


def test_audit_of_permitted_requests_can_be_switched_on(site: Site, audit: pytest.LogCaptureFixture) -> None:
    gate = site.load(audit={"allowed": True})
    environ = request(site.token(gate))
    for _ in range(3):
        gate.enter(environ, "infer", Model())
    assert [event["operation"] for event in events(audit)] == ["infer"] * 3


def test_a_flood_of_refusals_does_not_flood_the_log(site: Site, audit: pytest.LogCaptureFixture) -> None:
    gate = site.load(audit={"denied_per_second": 3})
    for _ in range(50):
        refusal(gate, request())
    lines = events(audit)
    assert 3 <= len(lines) <= 9
    # The second after that, the number of those that are missing is told.
    gate.audit._second -= 1
    refusal(gate, request())
    suppressed = [record for record in audit.records if getattr(record, "event", "") == "suppressed"]
    assert len(suppressed) == 1
    assert vars(suppressed[0])["count"] >= 41
    # Who has proved who they are is always logged.
    environ = request(site.token(gate))
    audit.clear()
    for _ in range(20):
        refusal(gate, environ, "accounts")
    assert len(events(audit)) == 20


def test_the_audit_log_does_not_depend_on_the_level_of_the_others(site: Site) -> None:
    parent = logging.getLogger("ai102_server")
    before = parent.level
    parent.setLevel(logging.ERROR)
    try:
        site.load()
        assert logging.getLogger("ai102_server.audit").isEnabledFor(logging.INFO)
    finally:
        parent.setLevel(before)


def test_lists_can_be_filtered_by_policy_without_a_trace(site: Site, audit: pytest.LogCaptureFixture) -> None:
    gate = site.load()
    token = site.token(gate)
    audit.clear()
    environ = request(token)
    tags = [frozenset({"tenant:acme"}), frozenset({"tenant:other"})]
    assert [gate.allows(environ, "metadata", Model(tags=item)) for item in tags] == [True, False]
    assert not gate.allows(request("nonsense"), "metadata", None)
    assert not gate.allows(request(), "metadata", None)
    assert gate.allows(request(), "health", None)
    assert events(audit) == []


def test_caches_are_bounded(site: Site) -> None:
    gate = site.load(cache_entries=16)
    for _ in range(40):
        gate.enter(request(site.token(gate)), "infer", Model())
    assert len(gate._entries) == 16
    assert len(gate._verified) == 16


def test_names_of_models_that_clients_make_up_fill_no_cache(site: Site) -> None:
    gate = site.load()
    environ = request(site.token(gate))
    for number in range(20):
        assert status(gate, environ, "infer", Model(f"model {number}")) == 200
    assert len(gate._entries) == 1
    # Unless a rule asks for the name: then each has its own answer.
    site.write_policy({"rules": [{"name": "closed", "effect": "deny", "models": ["secret", "m/2"]}]})
    gate = site.load()
    models = [Model("secret"), Model("open"), Model("m", "1"), Model("m", "2"), None]
    for _ in range(2):
        assert [status(gate, environ, "infer", model) for model in models] == [403, 200, 200, 403, 200]


def test_a_token_ends_in_the_cache_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = site.load(token_seconds=60, leeway_seconds=5)
    environ = request(site.token(gate))
    assert status(gate, environ) == 200
    now = time.time()

    import ai102_server.access.gate as module

    monkeypatch.setattr(module, "time", lambda: now + 58)
    assert status(gate, environ) == 200
    assert len(gate._entries) == 1
    entry = next(iter(gate._entries.values()))
    monkeypatch.setattr(module, "time", lambda: now + 61)
    # Within the leeway it is verified again, each time.
    assert status(gate, environ) == 200
    assert next(iter(gate._entries.values())) is not entry


# Policy and files ---------------------------------------------------------------------------------------------------
def test_rules_for_networks_and_times_are_asked_again_when_these_change(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ai102_server.access.gate as module

    site.write_policy(
        {
            "rules": [
                {"name": "office", "effect": "deny", "not_networks": ["10.0.0.0/8"]},
                {"name": "hours", "effect": "deny", "not_times": {"from": "08:00", "to": "18:00"}},
            ]
        }
    )
    gate = site.load(token_seconds=2 * 86400)
    token = site.token(gate)
    day = time.time() // 86400 * 86400
    monkeypatch.setattr(module, "time", lambda: day + 17 * 3600 + 59 * 60 + 59)
    assert status(gate, request(token, "10.1.1.1")) == 200
    assert status(gate, request(token, "11.1.1.1")) == 403
    known = list(gate._entries.values())
    assert status(gate, request(token, "10.1.1.1")) == 200
    # Within the minute nothing is asked again.
    assert [entry is before for entry, before in zip(gate._entries.values(), known, strict=True)] == [True, True]
    monkeypatch.setattr(module, "time", lambda: day + 18 * 3600)
    assert status(gate, request(token, "10.1.1.1")) == 403


def test_changed_files_hold_after_the_next_look(site: Site, audit: pytest.LogCaptureFixture) -> None:
    site.write_policy({"rules": []})
    gate = site.load()
    uma, vic = request(site.token(gate, "uma")), request(site.token(gate, "vic"))
    assert [status(gate, uma), status(gate, vic)] == [200, 403]
    site.write_policy({"rules": [{"name": "viewers infer", "roles": "viewer", "operations": "infer"}]})
    site.accounts[2]["disabled"] = True
    site.write_accounts()
    gate.poll()
    assert [status(gate, uma), status(gate, vic)] == [401, 200]
    assert [event["outcome"] for event in events(audit) if event["event"] == "reloaded"] == ["success"]
    gate.poll()
    assert not [event for event in events(audit) if event["event"] == "reloaded"]


def test_what_is_wrong_while_the_server_runs_leaves_the_rest(site: Site, audit: pytest.LogCaptureFixture) -> None:
    outsider = Outsider(site.path)
    gate = site.load(issuers=[outsider.document()])
    uma, eve = request(site.token(gate, "uma")), request(outsider.token())
    outsider.file.unlink()
    site.accounts[3]["role"] = "wizard"
    site.write_accounts()
    gate.poll()
    assert [status(gate, uma), status(gate, eve)] == [200, 200]
    # Who has a role that nobody knows has no rights.
    assert status(gate, request(site.token(gate, "vic")), "metadata") == 403
    problems = str([vars(record).get("problems") for record in audit.records])
    assert "outside.json: cannot be read" in problems
    assert "account 'vic' has the role 'wizard'" in problems
    assert [event["outcome"] for event in events(audit) if event["event"] == "reloaded"] == ["failure"]


def test_the_state_is_tidied_about_once_a_minute(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = site.load()
    gate._stop.set()
    purged: list[int] = []
    monkeypatch.setattr(gate.state, "purge", lambda: purged.append(1))
    gate.poll()
    assert gate._looks == 0
    gate._stop.clear()
    for _ in range(59):
        gate.poll()
    assert purged == []
    for _ in range(121):
        gate.poll()
    assert len(purged) == 3


def test_the_thread_survives_whatever_happens(
    site: Site, monkeypatch: pytest.MonkeyPatch, audit: pytest.LogCaptureFixture
) -> None:
    import ai102_server.access.gate as module

    monkeypatch.setattr(module, "_WATCH_SECONDS", 0.001)
    calls: list[int] = []
    again = threading.Event()

    def fail(_: Access) -> None:
        calls.append(1)
        if len(calls) > 2:
            again.set()
        raise OSError("disk full")

    monkeypatch.setattr(Access, "poll", fail)
    site.load()
    assert again.wait(10)
    assert "access files cannot be watched" in audit.text


def test_a_thread_looks_by_itself(site: Site) -> None:
    gate = site.load()
    uma = request(site.token(gate, "uma"))
    assert status(gate, uma) == 200
    del site.accounts[2]
    site.write_accounts()
    deadline = time.monotonic() + 10
    while status(gate, uma) == 200 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert status(gate, uma) == 401


@pytest.mark.parametrize("change", [{"role": "viewer"}, {"tenant": "other"}])
def test_a_token_ends_when_its_account_becomes_another(site: Site, change: dict[str, str]) -> None:
    gate = site.load()
    uma = request(site.token(gate, "uma"))
    site.accounts[2] |= change
    site.write_accounts()
    gate.poll()
    assert status(gate, uma) == 401
    assert status(gate, request(site.token(gate, "uma")), "metadata") == 200


def test_files_that_cannot_be_used_leave_the_last_ones(site: Site, audit: pytest.LogCaptureFixture) -> None:
    site.write_policy({"rules": []})
    gate = site.load()
    uma = request(site.token(gate, "uma"))
    for name, text in (
        ("policy.yml", "rules: 7"),
        ("accounts.yml", "accounts: [{name: a, hash: $secret, role: user}]"),
    ):
        path = site.path / name
        good = path.read_text()
        path.write_text(text)
        gate.poll()
        assert status(gate, uma) == 200
        assert any(str(path) in str(vars(record).get("problems")) for record in audit.records)
        assert "secret" not in audit.text
        path.write_text(good)
        gate.poll()
    (site.path / "accounts.yml").unlink()
    gate.poll()
    assert status(gate, uma) == 200


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("accounts.yml", None, "accounts.yml: cannot be read"),
        ("accounts.yml", "accounts: [{name: x, password: geheim", "accounts.yml: is not valid YAML at line "),
        ("accounts.yml", "accounts: {}", "accounts: must be a list"),
        ("accounts.yml", "accounts: [{name: a}, 7]", "accounts[0].hash: is missing"),
        (
            "accounts.yml",
            "accounts: [{name: a, hash: geheim, role: user}]",
            "accounts[0].hash: is not an Argon2id hash",
        ),
        ("accounts.yml", "accounts: [{name: a, hash: 7, role: user}]", "accounts[0].hash: must be text, not a number"),
        ("accounts.yml", "accounts: [{name: 'a:b', hash: x, role: user}]", "accounts[0].name: 'a:b' is no name"),
        ("accounts.yml", "accounts: [{name: a, rol: user}]", "accounts[0].rol: unknown key; did you mean 'role'?"),
        ("accounts.yml", "accounts: [{name: a, attributes: [b]}]", "attributes: must be a mapping"),
        ("policy.yml", "rules: 7", "policy.yml: rules: must be a list"),
        ("policy.yml", "\xff", "policy.yml: is not UTF-8 text"),
    ],
)
def test_a_start_says_what_is_wrong_with_a_file(site: Site, name: str, text: str | None, expected: str) -> None:
    site.write_policy({})
    path = site.path / name
    path.unlink()
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        site.load()
    assert expected in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_a_start_says_which_names_are_twice_and_which_roles_are_unknown(site: Site) -> None:
    site.accounts += [dict(site.accounts[0])]
    site.write_accounts()
    with pytest.raises(ConfigError, match=r"accounts\[5\].name: 'ann' is listed twice"):
        site.load()
    site.accounts[5:] = [{"name": "zoe", "hash": hashed("x"), "role": "wizard"}]
    site.write_accounts()
    with pytest.raises(
        ConfigError, match="account 'zoe' has the role 'wizard', which policy does not know; there are adm"
    ):
        site.load()
    site.accounts.pop()
    site.write_accounts()
    with pytest.raises(ConfigError, match=r"limits.roles 'wizard' has the role 'wizard'"):
        site.load(limits={"roles": {"wizard": {"concurrent": 1}}})
    with pytest.raises(ConfigError, match="issuer 'corp' has the role 'wizard'"):
        site.load(issuers=[Outsider(site.path).document(roles={"x": "wizard"})])


def test_a_hash_that_costs_too_much_is_refused(site: Site) -> None:
    site.accounts[0]["hash"] = hashed("x").replace("m=8192", "m=9999999")
    site.write_accounts()
    with pytest.raises(ConfigError, match="asks for more than 1048576 KiB of memory"):
        site.load()
    site.accounts[0]["hash"] = hashed("x").replace("argon2id", "argon2i")
    site.write_accounts()
    with pytest.raises(ConfigError, match="is not an Argon2id hash"):
        site.load()


def test_the_state_file_is_nobody_elses_and_must_be_usable(site: Site) -> None:
    config = site.config()
    Access.share(config)
    assert config.state is not None
    assert config.state.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ServerError, match=r"state file .* cannot be used"):
        Access.share(site.config(state=str(site.path / "keys")))
    bad = site.path / "text.db"
    bad.write_text("this is no database" * 100)
    with pytest.raises(ServerError, match="cannot be used"):
        Access.share(site.config(state=str(bad)))


# Keys ---------------------------------------------------------------------------------------------------------------
def test_the_newest_key_signs_and_all_verify_until_they_are_removed(site: Site) -> None:
    gate = site.load()
    old = site.token(gate)
    newer = rsa_key()
    site.write_key("2.pem", newer)
    gate.poll()
    new = site.token(gate)
    headers = [jwt.get_unverified_header(token) for token in (old, new)]
    assert headers == [
        {"alg": "EdDSA", "typ": "JWT", "kid": thumbprint(site.key.public_key())},
        {"alg": "RS256", "typ": "JWT", "kid": thumbprint(newer.public_key())},
    ]
    assert [status(gate, request(token)) for token in (old, new)] == [200, 200]
    (site.path / "keys" / "1.pem").unlink()
    gate.poll()
    assert [status(gate, request(token)) for token in (old, new)] == [401, 200]


def test_public_keys_only_verify(site: Site) -> None:
    gate = site.load()
    old = site.token(gate)
    site.write_key("1.pem", site.key, public_pem(site.key))
    second = Ed25519PrivateKey.generate()
    site.write_key("0.pem", second)
    gate.poll()
    assert status(gate, request(old)) == 200
    assert jwt.get_unverified_header(site.token(gate))["kid"] == thumbprint(second.public_key())
    assert len(gate.tokens.keys.jwks["keys"]) == 2
    (site.path / "keys" / "0.pem").unlink()
    gate.poll()
    assert status(gate, request(old)) == 200
    with pytest.raises(LookupError):
        site.token(gate)


def test_a_removed_key_is_refused_even_when_another_file_is_broken(site: Site, audit: pytest.LogCaptureFixture) -> None:
    gate = site.load()
    old = site.token(gate)
    site.write_key("2.pem", Ed25519PrivateKey.generate())
    (site.path / "keys" / "3.pem").write_text("nonsense")
    (site.path / "keys" / "1.pem").unlink()
    gate.poll()
    assert status(gate, request(old)) == 401
    assert status(gate, request(site.token(gate))) == 200
    assert "signing keys cannot be used" in audit.text


@pytest.mark.parametrize(
    ("data", "mode", "expected"),
    [
        (None, 0o644, "1.pem may be read or changed by others (mode 0644)"),
        (None, 0o620, "1.pem may be read or changed by others (mode 0620)"),
        (b"", 0o600, "1.pem holds no key in PEM"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 0o600, "is not an unencrypted key in PEM"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", 0o600, "is not an unencrypted key in PEM"),
    ],
)
def test_a_start_says_what_is_wrong_with_a_key(site: Site, data: bytes | None, mode: int, expected: str) -> None:
    site.write_key("1.pem", site.key, data).chmod(mode)
    with pytest.raises(ConfigError) as caught:
        site.load()
    assert expected in str(caught.value)
    assert "AAAA" not in str(caught.value)


def test_keys_must_be_there_and_strong(site: Site) -> None:
    site.write_key("1.pem", rsa_key(1024))
    with pytest.raises(ConfigError, match="an RSA key of less than 2048 bits"):
        site.load()
    from cryptography.hazmat.primitives.asymmetric import ec

    site.write_key("1.pem", ec.generate_private_key(ec.SECP256R1()))  # type: ignore[arg-type]  # the wrong kind
    with pytest.raises(ConfigError, match="neither Ed25519 nor RSA"):
        site.load()
    (site.path / "keys" / "1.pem").unlink()
    with pytest.raises(
        ConfigError, match=r"there is no key to sign tokens with; 'ai102-server token new-key' makes one"
    ):
        site.load()
    with pytest.raises(ConfigError, match="is not a directory: make it"):
        site.load(keys={"directory": str(site.path / "elsewhere")})


def test_keys_can_be_a_systemd_credential(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = site.path / "credentials"
    credentials.mkdir()
    first, second, third = (Ed25519PrivateKey.generate() for _ in range(3))
    site.write_key("../credentials/token-keys", first)
    (site.path / "keys" / "1.pem").unlink()
    with pytest.raises(ConfigError, match="CREDENTIALS_DIRECTORY is not set"):
        site.load(keys={"credential": "token-keys"})
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    gate = site.load(keys={"credential": "token-keys"})
    assert gate.tokens.keys.kid == thumbprint(first.public_key())
    # Several keys in one file: the last one is the newest. A directory as a credential becomes several files.
    site.write_key("../credentials/token-keys", first, pem(first) + pem(second))
    gate.poll()
    assert gate.tokens.keys.kid == thumbprint(second.public_key())
    site.write_key("../credentials/token-keys_3.pem", third)
    gate.poll()
    assert gate.tokens.keys.kid == thumbprint(third.public_key())
    assert len(gate.tokens.keys.verifying) == 3


def test_names_of_keys_are_their_thumbprints() -> None:
    # RFC 8037, appendix A.3, and RFC 7638, section 3.1.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

    raw = base64.urlsafe_b64decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
    assert thumbprint(Ed25519PublicKey.from_public_bytes(raw)) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3"
        "oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdA"
        "ZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-"
        "kEgU8awapJzKnqDKgw"
    )
    number = int.from_bytes(base64.urlsafe_b64decode(modulus + "=="), "big")
    key = RSAPublicNumbers(65537, number).public_key()
    assert thumbprint(key) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


# Tokens -------------------------------------------------------------------------------------------------------------
def signed(site: Site, headers: dict[str, Any] | None = None, algorithm: str = "EdDSA", **change: Any) -> str:
    now = int(time.time())
    claims = {
        "iss": "ai102-server", "aud": "ai102-inference", "sub": "uma", "role": "user", "tenant": "acme",
        "iat": now, "nbf": now, "exp": now + 600, "jti": "j",
    } | change  # fmt: skip
    claims = {name: value for name, value in claims.items() if value is not None}
    kid = thumbprint(site.key.public_key())
    # Not by jwt.encode, which refuses to make some of the claims that others may send.
    return jwt.api_jws.encode(json.dumps(claims).encode(), site.key, algorithm, {"kid": kid, **(headers or {})})


def test_what_a_token_says(site: Site) -> None:
    gate = site.load()
    token = site.token(gate)
    key = jwt.PyJWK(gate.tokens.keys.jwks["keys"][0]).key
    claims = jwt.decode(token, key, ["EdDSA"], audience="ai102-inference", issuer="ai102-server")
    assert {name: claims[name] for name in ("sub", "role", "tenant")} == {
        "sub": "uma",
        "role": "user",
        "tenant": "acme",
    }
    assert claims["exp"] - claims["iat"] == 7200
    assert claims["nbf"] == claims["iat"]
    assert len(claims["jti"]) >= 20
    assert claims["jti"] != jwt.decode(site.token(gate), options={"verify_signature": False})["jti"]
    identity = gate.verify(token)
    assert identity.attributes == {"clearance": "high"}
    assert (identity.jti, identity.issued, identity.expires) == (claims["jti"], claims["iat"], claims["exp"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"exp": int(time.time()) - 60}, "expired"),
        ({"nbf": int(time.time()) + 600}, "not yet valid"),
        ({"iat": int(time.time()) + 600}, "not yet valid"),
        ({"aud": "elsewhere"}, "for another audience"),
        ({"iss": "elsewhere"}, "unknown issuer"),
        ({"iss": None}, "unknown issuer"),
        ({"iss": ["ai102-server"]}, "unknown issuer"),
        ({"aud": None}, "a claim is missing"),
        ({"exp": None}, "a claim is missing"),
        ({"iat": None}, "a claim is missing"),
        ({"exp": "tomorrow"}, "not a token"),
        ({"exp": float("inf")}, "not a token"),
        ({"sub": "nobody"}, "account is gone or disabled"),
        ({"sub": "dora", "tenant": ""}, "account is gone or disabled"),
        ({"sub": None}, "account is gone or disabled"),
        ({"role": "admin"}, "role or tenant of the account has changed"),
        ({"tenant": "other"}, "role or tenant of the account has changed"),
        ({"jti": None}, "no jti"),
        ({"jti": ""}, "no jti"),
        ({"headers": {"kid": "other"}}, "unknown key"),
        ({"headers": {"kid": ""}}, "unknown key"),
        ({"headers": {"crit": ["x"], "x": 1}}, "not a token"),
    ],
)
def test_tokens_that_are_not_accepted(site: Site, change: dict[str, Any], reason: str) -> None:
    gate = site.load()
    assert gate.verify(signed(site)).subject == "uma"
    with pytest.raises(RefusedError) as caught:
        gate.verify(signed(site, **change))
    assert str(caught.value) == reason


def test_whatever_a_library_raises_is_a_refusal(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = site.load()
    token = site.token(gate)
    for error in (OverflowError("x"), RecursionError(), MemoryError(), KeyError("y")):

        def fail(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(jwt, "decode", fail)
        with pytest.raises(RefusedError, match=r"^not a token$"):
            gate.verify(token)


def test_what_cannot_be_written_is_not_written_by_half(site: Site) -> None:
    gate = site.load()

    def half() -> None:
        with gate.state._writing() as connection:
            connection.execute("INSERT INTO revoked_tokens VALUES ('x', 1e12)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert not gate.state.revoked(ANONYMOUS._replace(jti="x", issued=1e12))
    gate.revoke_token("x")
    assert gate.state.revoked(ANONYMOUS._replace(jti="x", issued=1e12))


def test_clocks_may_differ_by_the_leeway(site: Site) -> None:
    gate = site.load(leeway_seconds=30)
    now = int(time.time())
    assert gate.verify(signed(site, exp=now - 20, iat=now - 100)).subject == "uma"
    assert gate.verify(signed(site, nbf=now + 20, iat=now + 20)).subject == "uma"
    with pytest.raises(RefusedError, match="expired"):
        gate.verify(signed(site, exp=now - 40, iat=now - 100))


def part(document: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def test_algorithms_cannot_be_confused(site: Site) -> None:
    site.key = rsa_key()
    site.write_key("1.pem", site.key)
    gate = site.load()
    token = signed(site, algorithm="RS256")
    assert gate.verify(token).subject == "uma"
    payload = token.split(".")[1]
    kid = thumbprint(site.key.public_key())
    import hashlib
    import hmac

    for algorithm in ("HS256", "HS512", "hs256"):
        head = part({"alg": algorithm, "kid": kid, "typ": "JWT"})
        for secret in (public_pem(site.key), public_pem(site.key).strip(), b"", json.dumps(jwk(site.key)).encode()):
            mac = hmac.digest(secret, f"{head}.{payload}".encode(), hashlib.sha256)
            forged = f"{head}.{payload}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
            with pytest.raises(RefusedError):
                gate.verify(forged)
    for algorithm in ("none", "None", "NONE", ""):
        for signature in ("", "AA"):
            with pytest.raises(RefusedError):
                gate.verify(f"{part({'alg': algorithm, 'kid': kid})}.{payload}.{signature}")
    # The right key, but not with its algorithm.
    for other in ("RS512", "PS256"):
        with pytest.raises(RefusedError, match="algorithm is not the key's"):
            gate.verify(signed(site, algorithm=other))


def test_keys_in_the_token_are_not_looked_at(site: Site) -> None:
    gate = site.load()
    thief = Ed25519PrivateKey.generate()
    claims = jwt.decode(site.token(gate), options={"verify_signature": False})
    for kid in (thumbprint(site.key.public_key()), thumbprint(thief.public_key())):
        headers = {"kid": kid, "jwk": jwk(thief), "jku": "https://thief.example/", "x5u": "https://thief.example/"}
        with pytest.raises(RefusedError):
            gate.verify(jwt.encode(claims, thief, "EdDSA", headers))


def test_one_token_has_one_form(site: Site) -> None:
    """Else a caller could fill the cache with the forms of one token."""
    gate = site.load()
    token = site.token(gate)
    forms = [
        f"{token}=",
        f"{token}==",
        token + "!",
        token.replace(".", ". "),
        f"{token}.",
        token[:-1] + "~",
        f"{token}\n",
    ]
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    # Four bits of the last character of an Ed25519 signature mean nothing.
    place = last.index(token[-1]) // 16 * 16
    forms += [token[:-1] + last[place + offset] for offset in range(16) if last[place + offset] != token[-1]]
    for form in forms:
        with pytest.raises(RefusedError):
            gate.verify(form)


def test_headers_with_a_token(site: Site) -> None:
    gate = site.load()
    token = site.token(gate)
    for header in (f"Bearer {token}", f"bearer {token}", f"BEARER  {token} "):
        assert status(gate, {"HTTP_AUTHORIZATION": header}) == 200
    wrong = [
        "Bearer",
        "Bearer ",
        token,
        f"Basic {token}",
        f"Bearer {token},Bearer {token}",
        f"Bearer\t{token}",
        " ",
        "é",
    ]
    for header in [*wrong, f"Bearer {'a' * LONGEST_TOKEN}.a.a", f"Bearer {token} {token}"]:
        assert status(gate, {"HTTP_AUTHORIZATION": header}) == 401
    # An empty header is no header.
    assert refusal(gate, {"HTTP_AUTHORIZATION": ""}).message.startswith("a token is needed")


def test_a_token_of_the_greatest_length_is_looked_at() -> None:
    longest = f"aa.aa.{'a' * (LONGEST_TOKEN - 6)}"
    assert bearer(f"Bearer {longest}") == longest
    with pytest.raises(RefusedError):
        bearer(f"Bearer {longest}a")


def test_no_bytes_are_worse_than_a_401(site: Site) -> None:
    gate = site.load()
    found = run(gate, [site.token(gate), signed(site)], 1500, seed=1)
    assert found == []
    assert len(set(cases([site.token(gate)], 300, 2))) > 250


# Revocation ---------------------------------------------------------------------------------------------------------
def test_a_revoked_token_ends_in_all_processes_at_once(site: Site) -> None:
    shared = Access.share(site.config())
    first, second = site.load(shared), site.load(shared)
    token, other = site.token(first), site.token(first)
    assert [status(gate, request(token)) for gate in (first, second)] == [200, 200]
    first.revoke_token(first.verify(token).jti)
    assert [status(gate, request(token)) for gate in (first, second)] == [401, 401]
    assert [status(gate, request(other)) for gate in (first, second)] == [200, 200]
    # And after a restart.
    assert status(site.load(), request(token)) == 401


def test_all_tokens_of_a_subject_can_be_revoked_and_new_ones_work_at_once(site: Site) -> None:
    gate = site.load()
    token, other = site.token(gate, "uma"), site.token(gate, "vic")
    gate.revoke_subject("uma")
    assert status(gate, request(token)) == 401
    assert status(gate, request(other), "metadata") == 200
    issued = Login(gate)("uma", "right", request())
    assert status(gate, request(issued.token)) == 200


def test_what_another_program_revokes_is_seen_with_the_next_look(site: Site) -> None:
    gate, elsewhere = site.load(), site.load()
    token = site.token(gate)
    assert status(gate, request(token)) == 200
    elsewhere.revoke_token(elsewhere.verify(token).jti)
    gate.poll()
    assert status(gate, request(token)) == 401


def test_revocations_are_forgotten_when_the_tokens_are_dead(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    import ai102_server.access.state as module

    gate = site.load(token_seconds=60, leeway_seconds=10)
    gate.revoke_token("a")
    gate.revoke_token("b", time.time() + 30)
    # The longest expiry counts, whichever comes first.
    gate.revoke_token("c", time.time() + 500)
    gate.revoke_token("c", time.time() + 5)
    gate.revoke_subject("uma")

    def known(after: float) -> list[bool]:
        now = time.time()
        with monkeypatch.context() as patch:
            patch.setattr(module, "time", SimpleNamespace(time=lambda: now + after))
            gate.state.purge()
        return [gate.state.revoked(ANONYMOUS._replace(jti=jti, issued=now + 1e9)) for jti in "abc"] + [
            gate.state.revoked_before("uma") > 0
        ]

    assert known(0) == [True, True, True, True]
    assert known(95) == [True, True, True, True]
    assert known(125) == [True, False, True, True]
    assert known(135) == [False, False, True, False]
    assert known(600) == [False, False, False, False]


def test_a_revocation_during_a_decision_is_not_lost(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = site.load()
    token = site.token(gate)
    real = gate.state.revoked

    def revoked_meanwhile(identity: Any) -> bool:
        before = real(identity)
        monkeypatch.setattr(gate.state, "revoked", real)
        gate.revoke_token(identity.jti)
        return before

    monkeypatch.setattr(gate.state, "revoked", revoked_meanwhile)
    # This one was on its way before the revocation; the next is not.
    assert status(gate, request(token)) == 200
    assert status(gate, request(token)) == 401


# Issuers ------------------------------------------------------------------------------------------------------------
def test_tokens_of_others_are_translated(site: Site) -> None:
    outsider = Outsider(site.path)
    gate = site.load(issuers=[outsider.document(claims={
        "role": "realm.roles", "tenant": "org", "attributes": {"clearance": "https://x.example/clearance"},
    })])  # fmt: skip
    identity = gate.verify(outsider.token(None, **{"https://x.example/clearance": "high"}))
    assert (identity.subject, identity.role, identity.tenant, identity.jti) == ("corp:eve", "user", "acme", "corp:j1")
    assert identity.attributes == {"clearance": "high"}
    # The order in the configuration decides, not that in the token.
    assert gate.verify(outsider.token(realm={"roles": ["staff", "boss"]})).role == "admin"
    assert gate.verify(outsider.token(realm={"roles": "staff"})).role == "user"
    assert gate.verify(outsider.token(realm="staff")).role == ""
    assert gate.verify(outsider.token(realm=None, org=None, jti=None))[:5] == ("corp:eve", "", "", {}, "")
    assert status(gate, request(outsider.token(realm=None)), "metadata") == 403
    # Whatever they say: an admin of theirs is nobody here.
    assert gate.verify(outsider.token(realm={"roles": ["admin"]}, sub="ann")).role == ""


def test_what_issuers_can_be_given(site: Site) -> None:
    outsider = Outsider(site.path, rsa_key())
    document = outsider.document(claims={"subject": "mail"}, tenant="beta", default_role="viewer")
    del document["roles"]
    gate = site.load(issuers=[document])
    identity = gate.verify(outsider.token(mail="eve@example.org", org="acme"))
    assert (identity.subject, identity.role, identity.tenant) == ("corp:eve@example.org", "viewer", "beta")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"aud": "elsewhere"}, "for another audience"),
        ({"iss": "https://other.example"}, "unknown issuer"),
        ({"sub": None}, "no subject"),
        ({"sub": "a b"}, "no subject"),
        ({"sub": "a" * 257}, "no subject"),
        ({"org": ["acme"]}, "tenant cannot be read"),
        ({"org": "a b"}, "tenant cannot be read"),
        ({"exp": int(time.time()) + 90000}, "lives too long"),
        ({"iat": int(time.time()) - 86400}, "lives too long"),
        ({"iat": None}, "a claim is missing"),
        ({"headers": {"kid": "other"}}, "unknown key"),
        ({"iss": "ai102-server", "aud": "ai102-inference"}, "unknown key"),
    ],
)
def test_tokens_of_others_that_are_not_accepted(site: Site, change: dict[str, Any], reason: str) -> None:
    outsider = Outsider(site.path)
    gate = site.load(issuers=[outsider.document()])
    with pytest.raises(RefusedError) as caught:
        gate.verify(outsider.token(**change))
    assert str(caught.value) == reason


def test_an_issuer_cannot_speak_for_another(site: Site) -> None:
    first = Outsider(site.path)
    second = Outsider(site.path)
    second.file = site.path / "second.json"
    # It publishes a key under the name of ours and of the other one's, as well as its own.
    names = [thumbprint(site.key.public_key()), thumbprint(first.key.public_key())]
    second.publish(*[{**jwk(second.key), "kid": name} for name in names])
    first.publish()
    documents = [first.document(), second.document(name="evil", issuer="https://evil.example")]
    gate = site.load(issuers=documents)
    for kid, change in zip(names, ({"iss": "ai102-server", "aud": "ai102-inference"}, {}), strict=True):
        with pytest.raises(RefusedError, match="wrong signature"):
            gate.verify(second.token({"kid": kid}, **change))
    assert gate.verify(second.token({"kid": names[0]}, iss="https://evil.example")).subject == "evil:eve"
    assert gate.verify(first.token()).subject == "corp:eve"


def test_subjects_and_tokens_of_others_can_be_revoked(site: Site) -> None:
    outsider = Outsider(site.path)
    gate = site.load(issuers=[outsider.document()])
    one, two = outsider.token(jti="one"), outsider.token(jti="two")
    gate.revoke_token("corp:one")
    assert [status(gate, request(token)) for token in (one, two)] == [401, 200]
    gate.revoke_subject("eve")
    assert status(gate, request(two)) == 200
    gate.revoke_subject("corp:eve")
    assert status(gate, request(two)) == 401


def test_keys_of_others_change_with_their_file(site: Site) -> None:
    outsider = Outsider(site.path)
    gate = site.load(issuers=[outsider.document()])
    old = outsider.token()
    assert status(gate, request(old)) == 200
    outsider.key = Ed25519PrivateKey.generate()
    outsider.publish()
    gate.poll()
    assert [status(gate, request(token)) for token in (old, outsider.token())] == [401, 200]
    outsider.file.write_text("{}")
    gate.poll()
    assert status(gate, request(outsider.token())) == 200


@pytest.mark.parametrize(
    "change",
    [
        {"kty": "oct", "k": "c2VjcmV0"},
        {"use": "enc"},
        {"alg": "HS256"},
        {"alg": "RS256"},
        {"alg": ["EdDSA"]},
        {"kid": None},
        {"kid": 7},
        {"d": "AAAA"},
        {"x": "AAAA"},
        {"crv": "Ed448"},
    ],
)
def test_keys_that_are_not_taken(site: Site, change: dict[str, Any]) -> None:
    outsider = Outsider(site.path)
    outsider.publish(jwk(outsider.key) | change)
    with pytest.raises(ConfigError, match="holds no key that can be used"):
        site.load(issuers=[outsider.document()])
    good = Ed25519PrivateKey.generate()
    outsider.publish(jwk(outsider.key) | change, jwk(good))
    gate = site.load(issuers=[outsider.document()])
    assert status(gate, request(outsider.token())) == 401
    outsider.key = good
    assert status(gate, request(outsider.token())) == 200


def test_algorithms_of_keys() -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    from ai102_server.access.keys import parse_jwks

    allowed = ["EdDSA", "ES256", "ES384", "RS256", "PS256"]

    def algorithm(document: dict[str, Any]) -> str | None:
        try:
            return parse_jwks({"keys": [{**document, "kid": "k"}]}, allowed)["k"].algorithm
        except ValueError:
            return None

    rsa = jwk(rsa_key())
    assert [algorithm(rsa), algorithm({**rsa, "alg": "PS256"}), algorithm({**rsa, "alg": "RS512"})] == [
        "RS256",
        "PS256",
        None,
    ]
    assert algorithm({**rsa, "alg": "ES256"}) is None
    assert algorithm(jwk(rsa_key(1024))) is None
    for curve, name, expected in ((ec.SECP256R1(), "P-256", "ES256"), (ec.SECP384R1(), "P-384", "ES384")):
        public = ec.generate_private_key(curve).public_key()
        document = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(public))
        assert algorithm(document) == expected
        assert algorithm({**document, "alg": expected}) == expected
        assert algorithm({**document, "alg": "RS256"}) is None
        assert algorithm({**document, "crv": "P-521"}) is None
        assert algorithm({**document, "crv": {"P-256": "P-384", "P-384": "P-256"}[name]}) is None
    documents: list[object] = [None, [], {"keys": {}}, {"keys": [7]}]
    for wrong in documents:
        with pytest.raises(ValueError, match=r"is not a JWK set|holds no key"):
            parse_jwks(wrong, allowed)


class Publisher:
    """An HTTP server on this machine that publishes a document."""

    def __init__(self) -> None:
        import http.server

        publisher = self
        self.status, self.body, self.asked = 200, b"{}", 0

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher.asked += 1
                self.send_response(publisher.status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(publisher.body)))
                self.end_headers()
                self.wfile.write(publisher.body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/jwks.json"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    publisher = Publisher()
    yield publisher
    publisher.close()


def test_keys_are_fetched_in_the_background_and_kept(
    site: Site, publisher: Publisher, audit: pytest.LogCaptureFixture
) -> None:
    outsider = Outsider(site.path)
    publisher.body = json.dumps({"keys": [jwk(outsider.key)]}).encode()
    document = outsider.document(jwks_url=publisher.url)
    del document["jwks_file"]
    gate = site.load(issuers=[document])
    deadline = time.monotonic() + 10
    while status(gate, request(outsider.token())) != 200 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert status(gate, request(outsider.token())) == 200
    issuer = gate.config.issuers[0]
    # What cannot be renewed is kept.
    for code, body in ((500, b""), (302, b""), (200, b"no JSON"), (200, b"[]"), (200, b" " * ((1 << 20) + 1))):
        publisher.status, publisher.body = code, body
        before = publisher.asked
        assert not gate._fetcher.renew(issuer)
        assert publisher.asked == before + 1
        assert status(gate, request(outsider.token())) == 200
    assert "keys cannot be fetched" in audit.text
    # A new key takes the place of the old one.
    old = outsider.token()
    outsider.key = Ed25519PrivateKey.generate()
    publisher.status, publisher.body = 200, json.dumps({"keys": [jwk(outsider.key)]}).encode()
    assert gate._fetcher.renew(issuer)
    assert [status(gate, request(token)) for token in (old, outsider.token())] == [401, 200]
    gate.close()
    # A start without the other side has the keys of the last time.
    publisher.close()
    again = site.load(issuers=[document])
    assert status(again, request(outsider.token())) == 200


def test_before_the_first_keys_arrive_their_tokens_are_refused(site: Site) -> None:
    outsider = Outsider(site.path)
    document = outsider.document(jwks_url="http://127.0.0.1:9/")
    del document["jwks_file"]
    gate = site.load(issuers=[document])
    with pytest.raises(RefusedError, match="keys of the issuer are not known yet"):
        gate.verify(outsider.token())
    assert status(gate, request(site.token(gate))) == 200


# Log-in -------------------------------------------------------------------------------------------------------------
@pytest.fixture
def client(site: Site) -> FlaskClient:
    site.more["lockout"] = {"attempts": 3, "source_attempts": 6}
    return application(site.load()).test_client()


def application(gate: Access) -> flask.Flask:
    app = flask.Flask("test")
    app.register_blueprint(blueprint(gate))
    return app


def log_in(client: FlaskClient, name: str = "uma", password: str = "right", **options: Any) -> Any:
    return client.post("/auth/token", data={"username": name, "password": password}, **options)


def gate_of(site: Site) -> Access:
    return site.gates[0]


def test_a_log_in_gives_a_token(site: Site, client: FlaskClient, audit: pytest.LogCaptureFixture) -> None:
    answer = client.post("/auth/token", data={"grant_type": "password", "username": "uma", "password": "right"})
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    document = answer.get_json()
    assert {name: document[name] for name in ("token_type", "expires_in", "role", "tenant")} == {
        "token_type": "Bearer", "expires_in": 7200, "role": "user", "tenant": "acme",
    }  # fmt: skip
    assert status(gate_of(site), request(document["access_token"])) == 200
    assert client.post("/auth/token", json={"username": "uma", "password": "right"}).status_code == 200
    assert [(event["event"], event["subject"]) for event in events(audit)] == [("token.issued", "uma")] * 2
    assert "right" not in audit.text
    assert document["access_token"] not in audit.text


def test_wrong_names_and_passwords_look_the_same(client: FlaskClient, audit: pytest.LogCaptureFixture) -> None:
    pairs = [("uma", "wrong"), ("nobody", "right"), ("dora", "right"), ("dora", "wrong")]
    answers = [log_in(client, *pair) for pair in pairs]
    assert {(answer.status_code, answer.data) for answer in answers} == {
        (400, b'{"error":"invalid_grant","error_description":"name or password is wrong"}')
    }
    assert len({str(answer.headers) for answer in answers}) == 1
    found = [(event["reason"], event.get("subject")) for event in events(audit)]
    assert found == [
        ("wrong password", "uma"),
        ("unknown account", None),
        ("disabled", "dora"),
        ("wrong password", "dora"),
    ]


def test_a_name_that_does_not_exist_costs_as_much(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.accounts[1]["hash"] = hashed("right").replace("m=8192,t=1", "m=9216,t=2")
    site.write_accounts()
    gate = site.load()
    accounts = gate.accounts
    assert accounts is not None
    costs: list[str] = []
    noted = SimpleNamespace(verify=lambda encoded, _: costs.append(encoded.split("$")[3]))
    monkeypatch.setattr(accounts, "_hasher", noted)
    for number in range(60):
        assert not accounts.verify(f"nobody{number}", "x")
        assert not accounts.verify(f"nobody{number}", "y")
    # Its cost is that of one of the accounts, and always the same.
    assert set(costs) == {"m=8192,t=1,p=1", "m=9216,t=2,p=1"}
    assert costs[::2] == costs[1::2]


def test_accounts_that_do_not_exist_cost_as_much_when_there_are_none(site: Site) -> None:
    site.accounts.clear()
    site.write_accounts()
    gate = site.load()
    assert gate.accounts is not None
    assert not gate.accounts.verify("nobody", "x")
    assert gate.accounts._dummies[0].startswith("$argon2id$v=19$m=8192,t=1,p=1$")


FORM = "application/x-www-form-urlencoded"
TOO_LONG = "name or password is missing, or longer than 1024 bytes"


@pytest.mark.parametrize(
    ("options", "code", "error"),
    [
        ({"data": {"username": "uma"}}, 400, "invalid_request"),
        ({"data": {"username": "", "password": "x"}}, 400, "invalid_request"),
        ({"data": "username=uma&username=ann&password=right", "content_type": FORM}, 400, "invalid_request"),
        ({"data": {"grant_type": "client_credentials"}}, 400, "unsupported_grant_type"),
        ({}, 400, "invalid_request"),
        ({"json": {"username": "uma", "password": 7}}, 400, "the body must be a JSON object whose values are text"),
        ({"json": ["uma"]}, 400, "the body must be a JSON object whose values are text"),
        ({"data": b'{"password": "geheim', "content_type": "application/json"}, 400, "the body is not valid JSON"),
        ({"data": b"x", "content_type": "text/plain"}, 415, f"Content-Type must be {FORM} or application/json"),
        ({"data": {"username": "a" * 257, "password": "x"}}, 400, TOO_LONG),
        ({"data": {"username": "a", "password": "ä" * 513}}, 400, TOO_LONG),
        ({"data": {"username": "a", "password": "a" * 20000}}, 413, "Request Entity Too Large"),
        ({"json": {"username": "a", "password": "a" * 20000}}, 413, "Request Entity Too Large"),
    ],
)
def test_requests_for_tokens_that_make_no_sense(
    client: FlaskClient, options: dict[str, Any], code: int, error: str
) -> None:
    answer = client.post("/auth/token", **options)
    assert (answer.status_code, answer.get_json()["error"]) == (code, error)
    assert "geheim" not in answer.text


def test_the_longest_name_and_password_are_tried(client: FlaskClient) -> None:
    assert log_in(client, "a" * 256, "ä" * 512).get_json()["error"] == "invalid_grant"


def test_failures_lock_an_account_for_longer_and_longer(
    site: Site, client: FlaskClient, audit: pytest.LogCaptureFixture
) -> None:
    for name in ("uma", "nobody"):
        assert [log_in(client, name, "wrong").status_code for _ in range(3)] == [400] * 3
        # Even with the right password, and for a name that nobody has.
        answer = log_in(client, name)
        assert answer.status_code == 429
        assert answer.get_json() == {"error": "too many failed attempts: wait"}
        assert answer.headers["Retry-After"] == "2"
        site.gates[0].state.succeed("s:127.0.0.1")
    assert [event["seconds"] for event in events(audit) if event["event"] == "locked"] == [2.0, 2.0]
    assert log_in(client, "vic").status_code == 200


def test_the_time_doubles_up_to_the_longest_and_is_forgotten(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    import ai102_server.access.state as module

    gate = site.load(lockout={"first_seconds": 2, "longest_seconds": 20, "forget_seconds": 100})
    now = time.time()
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: now))
    assert [gate.state.fail("a:x", 3) for _ in range(8)] == [0, 0, 2, 4, 8, 16, 20, 20]
    assert gate.state.locked("a:x") == pytest.approx(20)
    assert gate.state.locked("a:y") == 0
    now += 21
    assert gate.state.locked("a:x") == 0
    assert gate.state.fail("a:x", 3) == 20
    now += 101
    assert gate.state.fail("a:x", 3) == 0
    for _ in range(5):
        gate.state.fail("a:x", 3)
    gate.state.succeed("a:x")
    assert gate.state.locked("a:x") == 0
    assert gate.state.fail("a:x", 1) == 2
    # Two powers beyond measure are no trouble.
    gate.state._writer.execute("UPDATE failures SET count = 5000")
    assert gate.state.fail("a:x", 3) == 20
    now += 101
    gate.state.purge()
    assert gate.state._row("SELECT count(*) FROM failures")[0] == 0


def test_failures_that_nobody_remembers_make_room(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    import ai102_server.access.state as module

    monkeypatch.setattr(module, "MOST_FAILURES", 5)
    gate = site.load()
    for number in range(9):
        gate.state.fail(f"a:{number}", 3)
    gate.state.purge()
    left = gate.state._reader.execute("SELECT key FROM failures ORDER BY key").fetchall()
    assert left == [(f"a:{number}",) for number in range(4, 9)]


def test_a_source_that_tries_many_names_is_locked_but_others_are_not(client: FlaskClient) -> None:
    codes = [log_in(client, f"name{number}").status_code for number in range(7)]
    assert codes == [400] * 6 + [429]
    # A right password in between makes nobody forget the source's failures.
    assert log_in(client).status_code == 429
    assert log_in(client, environ_base={"REMOTE_ADDR": "203.0.113.1"}).status_code == 200


def test_a_success_forgets_the_failures_of_the_account_only(site: Site, client: FlaskClient) -> None:
    for _ in range(2):
        assert [log_in(client, "uma", "wrong").status_code for _ in range(2)] == [400, 400]
        assert log_in(client).status_code == 200
    state = gate_of(site).state
    assert state._reader.execute("SELECT key, count FROM failures").fetchall() == [("s:127.0.0.1", 4)]


def test_names_are_not_kept_as_they_were_typed(
    site: Site, client: FlaskClient, audit: pytest.LogCaptureFixture
) -> None:
    log_in(client, "my-secret-password", "x")
    keys = str(gate_of(site).state._reader.execute("SELECT key FROM failures").fetchall())
    assert "secret" not in keys
    assert "secret" not in audit.text
    assert not any("secret" in str(vars(record)) for record in audit.records)


def test_log_ins_are_bounded_in_number(site: Site) -> None:
    gate = site.load(login={"per_second": 0.5})
    client = application(gate).test_client()
    assert log_in(client).status_code == 200
    answer = log_in(client)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "2")


def test_log_ins_at_the_same_time_are_bounded_and_the_rest_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = Access.share(site.config())
    gate = site.load(shared, login={"concurrent": 2, "waiting": 1, "wait_seconds": 30.0, "per_second": 1000.0})
    login = Login(gate)
    assert gate.accounts is not None
    running, most, go = [0], [0], threading.Event()
    entered = threading.Semaphore(0)

    def slow(*_: str) -> bool:
        running[0] += 1
        most[0] = max(most[0], running[0])
        entered.release()
        go.wait(20)
        running[0] -= 1
        return True

    monkeypatch.setattr(gate.accounts, "verify", slow)
    codes: list[int] = []

    def room() -> int:
        return login._threads._value

    def one() -> None:
        try:
            login("uma", "right", request())
            codes.append(200)
        except RequestError as error:
            codes.append(error.status)

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        assert entered.acquire(timeout=10)
    while room():
        time.sleep(0.01)
    # Two run, one waits: there is no room for a fourth.
    with pytest.raises(RequestError) as caught:
        login("uma", "right", request())
    assert (caught.value.status, caught.value.headers["Retry-After"]) == (503, "1")
    go.set()
    for thread in threads:
        thread.join(20)
    assert (codes, most[0]) == ([200, 200, 200], 2)
    # All places are free again.
    assert login._passes == [False, False]
    assert room() == 3
    assert login("uma", "right", request()).seconds == 7200


def test_who_waits_too_long_for_a_turn_is_refused(site: Site) -> None:
    gate = site.load(login={"concurrent": 1, "waiting": 1, "wait_seconds": 0.05, "per_second": 1000.0})
    login = Login(gate)
    with login._turns, pytest.raises(RequestError) as caught:
        login("uma", "right", request())
    assert (caught.value.status, caught.value.headers["Retry-After"]) == (503, "1")
    assert login("uma", "right", request()).identity.subject == "uma"


def test_a_failure_is_audited_with_its_request(site: Site, audit: pytest.LogCaptureFixture) -> None:
    login = Login(site.load(lockout={"attempts": 1}))
    with pytest.raises(WrongPasswordError):
        login("uma", "wrong", request(x_request_id="r-7"))
    known = {"outcome": "denied", "subject": "uma", "role": "user", "source": "192.0.2.1", "request_id": "r-7"}
    assert events(audit) == [
        {"event": "token.refused", "reason": "wrong password", **known},
        {"event": "locked", "reason": "account", "seconds": 2.0, **known},
    ]
    with pytest.raises(RequestError):
        login("uma", "right", request(x_request_id="r-8"))
    (refused,) = events(audit)
    assert {name: refused[name] for name in ("event", "outcome", "reason", "request_id")} == {
        "event": "token.refused", "outcome": "denied", "reason": "locked", "request_id": "r-8",
    }  # fmt: skip


def test_a_log_in_gives_its_pass_to_other_processes(site: Site) -> None:
    gate = site.load()
    Login(gate)("uma", "right", request())
    child = os.fork()
    if child == 0:
        os._exit(0 if gate.table.enter_pass(0) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_log_in_waits_for_those_of_other_processes(site: Site) -> None:
    shared = Access.share(site.config())
    gate = site.load(shared, login={"wait_seconds": 0.05, "per_second": 1000.0})
    login = Login(gate)
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        taken = shared.table.enter_pass(0)
        os.write(ready[1], b"y" if taken else b"n")
        os.read(done[0], 1)
        os._exit(0)
    try:
        assert os.read(ready[0], 1) == b"y"
        with pytest.raises(RequestError) as caught:
            login("uma", "right", request())
        assert caught.value.status == 503
    finally:
        os.write(done[1], b"x")
        os.waitpid(child, 0)
        for end in (*ready, *done):
            os.close(end)
    # The child died with its pass.
    assert login("uma", "right", request()).identity.subject == "uma"


def test_outdated_hashes_are_told(site: Site, audit: pytest.LogCaptureFixture) -> None:
    gate = site.load(password={"memory_kib": 9216, "iterations": 1, "parallelism": 1})
    Login(gate)("uma", "right", request())
    assert [event["event"] for event in events(audit)] == ["password.outdated", "token.issued"]


def test_without_accounts_or_keys_nobody_logs_in(site: Site) -> None:
    gate = site.load(accounts=None, keys=None, issuers=[Outsider(site.path).document()])
    client = application(gate).test_client()
    assert log_in(client).status_code == 404
    assert client.get("/auth/jwks.json").get_json() == {"keys": []}
    own = site.load()
    (site.path / "keys" / "1.pem").unlink()
    own.poll()
    answer = log_in(application(own).test_client())
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")


def test_routes_say_that_access_is_switched_off() -> None:
    client = application(Access.load(settings({}))).test_client()
    for answer in (log_in(client), client.post("/auth/revoke"), client.get("/auth/jwks.json")):
        assert answer.status_code == 404
        assert "switched off" in answer.get_json()["error"]


# Revocation and keys over HTTP --------------------------------------------------------------------------------------
def bearer_header(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_published_keys_verify_our_tokens(client: FlaskClient) -> None:
    answer = client.get("/auth/jwks.json")
    assert answer.headers["Cache-Control"] == "public, max-age=300"
    assert client.get("/.well-known/jwks.json").data == answer.data
    (key,) = answer.get_json()["keys"]
    assert {name: key[name] for name in ("kty", "crv", "alg", "use")} == {
        "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig",
    }  # fmt: skip
    assert "d" not in key
    token = log_in(client).get_json()["access_token"]
    assert jwt.decode(token, jwt.PyJWK(key), ["EdDSA"], audience="ai102-inference")["sub"] == "uma"


def test_everybody_can_end_their_own_token(site: Site, client: FlaskClient, audit: pytest.LogCaptureFixture) -> None:
    gate = gate_of(site)
    one, two, three = (site.token(gate) for _ in range(3))
    assert client.post("/auth/revoke", headers=bearer_header(one)).status_code == 200
    assert client.post("/auth/revoke", data={"token": two}).status_code == 200
    assert [status(gate, request(token)) for token in (one, two, three)] == [401, 401, 200]
    assert [event["event"] for event in events(audit)][:2] == ["token.revoked"] * 2
    # What is no token, or no longer one, is at its end already.
    for token in (one, "nonsense", "a" * 9000):
        assert client.post("/auth/revoke", data={"token": token}).status_code == 200
    for headers in ({}, bearer_header(one), bearer_header("nonsense")):
        answer = client.post("/auth/revoke", headers=headers)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="ai102"')


def test_admins_end_the_tokens_of_others(site: Site, client: FlaskClient, audit: pytest.LogCaptureFixture) -> None:
    gate = gate_of(site)
    admin, operator, uma, other = (site.token(gate, name) for name in ("ann", "otto", "uma", "uma"))
    jti = gate.verify(uma).jti
    for token in (operator, uma):
        assert client.post("/auth/revoke", json={"jti": jti}, headers=bearer_header(token)).status_code == 403
    assert client.post("/auth/revoke", json={"jti": jti}).status_code == 401
    audit.clear()
    assert client.post("/auth/revoke", json={"jti": jti}, headers=bearer_header(admin)).status_code == 200
    revoked = [record for record in audit.records if getattr(record, "event", "") == "token.revoked"]
    assert [(vars(record)["subject"], vars(record)["revoked_jti"]) for record in revoked] == [("ann", jti)]
    assert [status(gate, request(token)) for token in (uma, other, operator)] == [401, 200, 200]
    assert client.post("/auth/revoke", json={"subject": "uma"}, headers=bearer_header(admin)).status_code == 200
    assert [status(gate, request(token)) for token in (other, operator)] == [401, 200]
    for body in ({"jti": ""}, {"subject": "a" * 513}, {"jti": "a" * 513}):
        assert client.post("/auth/revoke", json=body, headers=bearer_header(admin)).status_code == 400


def test_a_token_without_an_id_can_only_be_ended_with_its_subject(site: Site) -> None:
    outsider = Outsider(site.path)
    gate = site.load(issuers=[outsider.document()])
    client = application(gate).test_client()
    answer = client.post("/auth/revoke", headers=bearer_header(outsider.token(jti=None)))
    assert answer.status_code == 400
    assert AUDIENCE not in answer.text


def test_tickets_end_with_a_block(site: Site) -> None:
    gate = site.load(limits={"default": {"concurrent": 1}})
    environ = request(site.token(gate))
    with gate.enter(environ, "infer", None) as ticket:
        assert isinstance(ticket, Ticket)
        assert status(gate, environ) == 429
    assert status(gate, environ) == 200


def test_shared_state_is_made_where_there_is_none(site: Site) -> None:
    assert isinstance(Access.share(site.config()), AccessShared)
    assert yaml.safe_load((site.path / "accounts.yml").read_text())["accounts"][0]["name"] == "ann"
