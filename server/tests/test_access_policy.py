# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import datetime
import ipaddress
import threading
import zoneinfo
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from access_kit import Model
from ai102_server.access.identity import Identity, Source, Sources
from ai102_server.access.policy import Policy, parse_policy
from ai102_server.config.access import OPERATIONS
from ai102_server.errors import ConfigError

UNIX = Source("unix", None)
# A Wednesday.
NOON = datetime.datetime(2025, 1, 15, 12, 0, tzinfo=datetime.timezone.utc).timestamp()
HOUR = 3600.0
BUILTIN = Policy.builtin()
ROLES = ("anonymous", "viewer", "user", "operator", "admin")


def at(address: str) -> Source:
    return Source(address, ipaddress.ip_address(address))


def allowed(
    policy: Policy,
    role: str,
    operation: str = "infer",
    model: Model | None = None,
    source: Source = UNIX,
    moment: float = NOON,
    **who: Any,
) -> bool:
    subject = "" if role == "anonymous" else "someone"
    return policy.decide(Identity(subject, role, **who), operation, model, source, moment).allowed


def rules(*listed: dict[str, Any], **more: Any) -> Policy:
    named = [{"name": f"rule {index}", **rule} for index, rule in enumerate(listed)]
    return parse_policy({"rules": named, **more}, "policy.yml")


# Built-in roles -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("operation", "first"),
    [
        ("health", "anonymous"),
        ("metadata", "viewer"),
        ("repository.index", "viewer"),
        ("statistics", "viewer"),
        ("metrics", "viewer"),
        ("page", "viewer"),
        ("infer", "user"),
        ("repository.load", "operator"),
        ("repository.unload", "operator"),
        ("accounts", "admin"),
    ],
)
def test_builtin_roles_may_what_they_are_for_and_inherit_the_rest(operation: str, first: str) -> None:
    assert [allowed(BUILTIN, role, operation) for role in ROLES] == [
        ROLES.index(role) >= ROLES.index(first) for role in ROLES
    ]


def test_every_operation_is_allowed_to_somebody_and_unknown_ones_to_nobody() -> None:
    assert all(allowed(BUILTIN, "admin", operation) for operation in OPERATIONS)
    assert not allowed(BUILTIN, "admin", "something")
    assert not any(allowed(BUILTIN, role, operation) for role in ("", "stranger") for operation in OPERATIONS)


# Tenants ------------------------------------------------------------------------------------------------------------
def test_a_model_of_a_tenant_is_for_that_tenant_alone() -> None:
    of_acme = Model(tags=frozenset({"tenant:acme", "public"}))
    assert allowed(BUILTIN, "user", "infer", of_acme, tenant="acme")
    for tenant in ("", "other"):
        assert not allowed(BUILTIN, "user", "infer", of_acme, tenant=tenant)
        assert not allowed(BUILTIN, "admin", "infer", of_acme, tenant=tenant)
        assert not allowed(BUILTIN, "admin", "metadata", of_acme, tenant=tenant)
    decision = BUILTIN.decide(Identity("x", "user", "other"), "infer", of_acme, UNIX, NOON)
    assert decision.rule == "tenant isolation"


def test_models_of_nobody_are_for_everybody_and_several_tenants_can_share() -> None:
    assert allowed(BUILTIN, "user", "infer", Model(tags=frozenset({"public"})), tenant="acme")
    shared = Model(tags=frozenset({"tenant:acme", "tenant:beta"}))
    assert [allowed(BUILTIN, "user", "infer", shared, tenant=name) for name in ("acme", "beta", "gamma")] == [
        True,
        True,
        False,
    ]


def test_operators_without_a_tenant_load_the_models_of_all_and_those_of_another_tenant_do_not() -> None:
    of_acme = Model(tags=frozenset({"tenant:acme"}))
    assert [allowed(BUILTIN, "operator", "repository.load", of_acme, tenant=name) for name in ("", "acme", "beta")] == [
        True,
        True,
        False,
    ]


@given(
    st.sampled_from(ROLES),
    st.sampled_from(OPERATIONS),
    st.frozensets(st.sampled_from(["tenant:a", "tenant:b", "public", "a"])),
    st.sampled_from(["", "a", "b", "c"]),
)
@settings(max_examples=150, deadline=None)
def test_isolation_holds_whatever_else_is_allowed(role: str, operation: str, tags: frozenset[str], tenant: str) -> None:
    everything = rules({"roles": list(ROLES), "operations": list(OPERATIONS)})
    owners = {tag[7:] for tag in tags if tag.startswith("tenant:")}
    expected = not owners or tenant in owners or (not tenant and operation.startswith("repository."))
    assert allowed(everything, role, operation, Model(tags=tags), tenant=tenant) == expected


# Conditions ---------------------------------------------------------------------------------------------------------
def test_a_denial_beats_all_permissions_and_is_named() -> None:
    policy = rules(
        {"roles": ["user"], "operations": "infer", "models": "secret"},
        {"effect": "deny", "models": ["secret"], "name": "closed"},
    )
    assert allowed(policy, "user", model=Model("minilm"))
    assert not allowed(policy, "admin", model=Model("secret"))
    assert policy.decide(Identity("x", "admin"), "infer", Model("secret"), UNIX, NOON) == (False, "closed")
    assert policy.decide(Identity("x", "viewer"), "infer", Model("other"), UNIX, NOON) == (False, "")


@pytest.mark.parametrize(
    ("patterns", "model", "expected"),
    [
        ("minilm", Model("minilm", "1"), True),
        ("minilm", Model("minilm2", "1"), False),
        ("mini*", Model("minilm2", "1"), True),
        ("minilm/1", Model("minilm", "1"), True),
        ("minilm/1", Model("minilm", "2"), False),
        (["a", "b*"], Model("bert", "1"), True),
        ("*", None, False),
        ("Minilm", Model("minilm", "1"), False),
    ],
)
def test_models_are_matched_by_name_and_version(patterns: object, model: Model | None, expected: bool) -> None:
    policy = rules({"roles": "viewer", "operations": "infer", "models": patterns})
    assert allowed(policy, "viewer", model=model) == expected


def test_tags_and_attributes_of_both_sides_count() -> None:
    policy = rules(
        {"roles": "viewer", "operations": "infer", "tags": ["public", "demo"], "not_tags": ["beta"]},
        {"roles": "viewer", "operations": "infer", "attributes": {"clearance": ["high", "top"], "team": "red"}},
        {"roles": "viewer", "operations": "metadata", "tenants": ["acme"], "not_tags": "x"},
    )
    tagged = [frozenset({"demo"}), frozenset({"public", "beta"}), frozenset({"other"}), frozenset[str]()]
    assert [allowed(policy, "viewer", model=Model(tags=tags)) for tags in tagged] == [True, False, False, False]
    attributes = [{"clearance": "top", "team": "red"}, {"clearance": "high"}, {"clearance": "low", "team": "red"}]
    assert [allowed(policy, "viewer", attributes=item) for item in attributes] == [True, False, False]


def test_tenants_of_a_rule_are_those_of_the_caller() -> None:
    policy = rules({"roles": "anonymous", "operations": "infer", "tenants": ["acme", "beta"]}, extends="none")
    assert [allowed(policy, "anonymous", tenant=name) for name in ("acme", "beta", "gamma", "")] == [
        True,
        True,
        False,
        False,
    ]


def test_networks() -> None:
    policy = rules(
        {"roles": "viewer", "operations": "infer", "networks": ["10.0.0.0/8", "fd00::/8"]},
        {"effect": "deny", "roles": "admin", "operations": "accounts", "not_networks": ["10.1.0.0/16", "unix"]},
    )
    assert policy.uses_networks
    sources = [at("10.2.3.4"), at("fd00::1"), at("11.0.0.1"), at("fe80::1"), UNIX]
    assert [allowed(policy, "viewer", source=source) for source in sources] == [True, True, False, False, False]
    admins = [at("10.1.3.4"), at("10.2.3.4"), UNIX]
    assert [allowed(policy, "admin", "accounts", source=source) for source in admins] == [True, False, True]
    only_denial = rules({"effect": "deny", "not_networks": "10.0.0.0/8"})
    assert only_denial.uses_networks
    assert not BUILTIN.uses_networks


@pytest.mark.parametrize(
    ("window", "hours", "expected"),
    [
        ({"from": "08:00", "to": "18:00"}, [-5, -4, 0, 5, 6], [False, True, True, True, False]),
        ({"days": "mon-fri"}, [0, 24, 48, 72, 120], [True, True, True, False, True]),
        ({"days": ["sat-mon"]}, [0, 72, 96, 120, 144], [False, True, True, True, False]),
        ({"days": "wed"}, [-13, -12, 11, 12], [False, True, True, False]),
        # Over midnight: the hours after it belong to the day before.
        (
            {"days": "wed", "from": "22:00", "to": "06:00"},
            [-7, 0, 10, 17, 18, 34],
            [False, False, True, True, False, False],
        ),
        ({"from": 1080, "to": "24:00"}, [5, 6, 11, 12], [False, True, True, False]),
        ({"from": "13:00", "timezone": "Europe/Berlin"}, [-1, 0, 10, 11], [False, True, True, False]),
        ({"from": "24:00", "to": "12:00"}, [-12, -1, 0], [True, True, False]),
    ],
)
def test_times(window: dict[str, Any], hours: list[float], expected: list[bool]) -> None:
    policy = rules({"roles": "viewer", "operations": "infer", "times": window})
    assert [allowed(policy, "viewer", moment=NOON + hour * HOUR) for hour in hours] == expected
    assert policy.uses_time
    opposite = rules({"effect": "deny", "not_times": [window]})
    assert opposite.uses_time
    assert [allowed(opposite, "user", moment=NOON + hour * HOUR) for hour in hours] == expected
    assert not BUILTIN.uses_time


def test_utc_needs_no_database_of_time_zones(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(zoneinfo, "ZoneInfo", missing)
    policy = rules({"roles": "viewer", "operations": "infer", "times": {"from": "11:00", "timezone": "UTC"}})
    assert allowed(policy, "viewer")


def test_a_file_may_say_nothing() -> None:
    documents: list[object] = [{}, {"rules": None}, {"rules": []}]
    for document in documents:
        assert parse_policy(document, "x").roles == BUILTIN.roles


def test_windows_are_exact_to_the_minute() -> None:
    policy = rules({"roles": "viewer", "operations": "infer", "times": {"from": "12:30", "to": "12:31"}})
    moments = [29 * 60 + 59, 30 * 60, 30 * 60 + 59, 31 * 60]
    assert [allowed(policy, "viewer", moment=NOON + seconds) for seconds in moments] == [False, True, True, False]


def test_roles_of_ones_own() -> None:
    policy = rules(
        {"roles": "auditor", "operations": ["statistics"]},
        extends="none",
        roles={"anonymous": [], "auditor": ["anonymous"], "chief": "auditor", "nobody": None},
    )
    assert policy.roles == {"anonymous", "auditor", "chief", "nobody"}
    assert [allowed(policy, role, "statistics") for role in ("anonymous", "auditor", "chief", "nobody", "admin")] == [
        False,
        True,
        True,
        False,
        False,
    ]
    assert not allowed(policy, "anonymous", "health")


# Mistakes -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ([], "policy.yml: must be a mapping"),
        ({"rules": {}}, "rules: must be a list, not a mapping"),
        ({"rule": []}, "rule: unknown key; did you mean 'rules'?"),
        ({"extends": "all"}, "extends: 'all' is not one of builtin, none"),
        ({"rules": [{}]}, "rules[0].name: is missing"),
        ({"rules": [{"name": "a"}]}, "rules[0].roles: is missing"),
        ({"rules": [{"name": "a", "roles": "user"}]}, "rules[0].operations: is missing"),
        ({"rules": [{"name": "a", "roles": [], "operations": "infer"}]}, "rules[0].roles: is empty"),
        (
            {"rules": [{"name": "a", "roles": "usr", "operations": "infer"}]},
            "rules[0].roles: 'usr' is no role; there are",
        ),
        ({"rules": [{"name": "a", "roles": "*", "operations": "infer"}]}, "rules[0].roles: '*' is no name"),
        ({"rules": [{"name": "a", "roles": "user", "operations": "predict"}]}, "'predict' is not an operation"),
        ({"rules": [{"name": "a", "roles": "user", "operations": []}]}, "rules[0].operations: is empty"),
        (
            {"rules": [{"name": "a", "effect": "deny", "networks": "10.0.0.1/8"}]},
            "rules[0].networks: '10.0.0.1/8' is not",
        ),
        ({"rules": [{"name": "a", "effect": "deny", "models": "a b"}]}, "rules[0].models: 'a b' may not hold spaces"),
        ({"rules": [{"name": "a", "effect": "deny", "attributes": {}}]}, "rules[0].attributes: must map"),
        ({"rules": [{"name": "a", "effect": "deny", "attributes": {"x": []}}]}, "gives an attribute no value"),
        ({"rules": [{"name": "a", "effect": "deny", "times": []}]}, "rules[0].times: is empty"),
        (
            {"rules": [{"name": "a", "effect": "deny", "times": {"from": "8:00"}}]},
            "times[0].from: '8:00' is not a time",
        ),
        ({"rules": [{"name": "a", "effect": "deny", "times": {"to": 1441}}]}, "times[0].to: '1441' is not a time"),
        ({"rules": [{"name": "a", "effect": "deny", "times": {"from": True}}]}, "times[0].from: 'True' is not a time"),
        ({"rules": [{"name": "a", "effect": "deny", "times": {"days": "mon-day"}}]}, "days: 'mon-day' is not a day"),
        ({"rules": [{"name": "a", "effect": "deny", "times": {"days": "day"}}]}, "times[0].days: 'day' is not a day"),
        ({"rules": [{"name": "a", "effect": "deny", "times": {"timezone": "Mars"}}]}, "'Mars' is not a time zone"),
        (
            {"rules": [{"name": "a", "effect": "deny"}, {"name": "a", "effect": "deny"}]},
            "rules[1].name: 'a' is the name",
        ),
        ({"roles": {"a b": []}}, "roles.a b: 'a b' is no name"),
        ({"roles": {"a": "b"}}, "roles.a: inherits from 'b', which is no role"),
        ({"roles": {"a": "b", "b": "a"}}, "roles.a: inherits from itself: a → b → a"),
        ({"roles": {"anonymous": "admin"}}, "roles.anonymous: cannot inherit"),
        (
            {"roles": {f"r{n}": [f"r{n + 1}"] if n < 10 else [] for n in range(11)}},
            "roles.r0: inherits through more than 10 roles",
        ),
    ],
)
def test_says_what_is_wrong_with_a_policy(document: object, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(document, "policy.yml")
    assert expected in str(caught.value)


def test_threads_do_not_disturb_each_other() -> None:
    policy = rules({"roles": "viewer", "operations": "infer", "models": "m*"})
    wrong: list[object] = []

    def work(role: str, expected: bool) -> None:
        try:
            wrong.extend(role for _ in range(30) if allowed(policy, role, model=Model("m")) != expected)
        except Exception as error:  # noqa: BLE001  # whatever it is, the test must fail and not the thread
            wrong.append(error)

    people = [("viewer", True), ("stranger", False), ("anonymous", False), ("", False), ("user", True)]
    threads = [threading.Thread(target=work, args=person) for person in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_ten_roles_deep_is_deep_enough_and_works() -> None:
    roles = {f"r{n}": [f"r{n + 1}"] if n < 9 else [] for n in range(10)}
    policy = rules({"roles": "r9", "operations": "infer"}, roles=roles)
    assert allowed(policy, "r0")


# Sources ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("10.0.0.5", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.6", "198.51.100.7", "10.0.0.6"),
        ("10.0.0.5", "1.1.1.1, 198.51.100.7", "198.51.100.7"),
        ("10.0.0.5", "1.1.1.1,198.51.100.7 , 10.0.0.5", "198.51.100.7"),
        ("10.0.0.5", "1.1.1.1, nonsense", "10.0.0.5"),
        ("10.0.0.5", "1.1.1.1, x, 10.0.0.5", "10.0.0.5"),
        ("10.0.0.5", "[2001:db8::1]", "2001:db8::1"),
        ("10.0.0.5", "10.0.0.5, 10.0.0.5", "10.0.0.5"),
        ("", "198.51.100.7", "198.51.100.7"),
        ("::ffff:10.0.0.5", "::ffff:198.51.100.7", "198.51.100.7"),
        ("10.0.0.5", "1.1.1.1," + " " * 1024, "10.0.0.5"),
        ("10.0.0.5", "", "10.0.0.5"),
    ],
)
def test_forwarded_addresses_count_as_far_as_proxies_are_trusted(peer: str, forwarded: str, expected: str) -> None:
    sources = Sources((ipaddress.ip_network("10.0.0.5/32"), "unix"))
    environ = {"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": forwarded}
    assert sources.of(environ).text == expected


def test_real_ip_counts_where_there_is_nothing_else() -> None:
    sources = Sources((ipaddress.ip_network("10.0.0.0/8"),))
    environ = {"REMOTE_ADDR": "10.1.1.1", "HTTP_X_REAL_IP": "192.0.2.9"}
    assert sources.of(environ).text == "192.0.2.9"
    assert sources.of({**environ, "HTTP_X_FORWARDED_FOR": "192.0.2.8"}).text == "192.0.2.8"
    assert Sources(()).of(environ).text == "10.1.1.1"
    assert Sources(()).of({}) == Source("unix", None)


def test_networks_of_sources_are_what_one_person_has() -> None:
    assert at("192.0.2.9").network == "192.0.2.9"
    assert at("2001:db8::1:2:3:4").network == "2001:db8::/64"
    assert UNIX.network == "unix"


@given(st.text(max_size=40), st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_no_header_breaks_the_search_for_the_source(peer: str, forwarded: str) -> None:
    sources = Sources((ipaddress.ip_network("0.0.0.0/0"), "unix"))
    assert sources.of({"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": forwarded}).text
