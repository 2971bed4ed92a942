# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Policy: rules that people can read, decided by Casbin.

One Casbin model carries both: roles that inherit from each other (RBAC), and conditions on attributes of the caller,
the model and the request (ABAC). A rule of the file becomes one line of Casbin's policy. A request is allowed when a
rule allows it and none denies it. A model tagged ``tenant:<name>`` is for that tenant alone, whatever the rules say.
"""

from __future__ import annotations

import datetime
import functools
import json
import logging
import re
import threading
import zoneinfo
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import casbin  # type: ignore[import-untyped]  # ships no types

from ai102_server.access.files import read_yaml
from ai102_server.access.identity import ANONYMOUS_ROLE, Identity, ModelRefLike, Source
from ai102_server.config.access import BUILTIN_ROLES, to_many, to_name, to_network, to_operation
from ai102_server.config.reader import MISSING, Section, kind_of, to_choice, to_text
from ai102_server.errors import ConfigError

__all__ = ["Decision", "Policy", "parse_policy"]

_MODEL: Final = """
[request_definition]
r = role, tenant, attributes, operation, model, version, tags, source, time

[policy_definition]
p = name, role, operations, models, tags, not_tags, tenants, attributes, networks, not_networks, times, not_times, \
isolation, eft

[role_definition]
g = _, _

[policy_effect]
e = some(where (p.eft == allow)) && !some(where (p.eft == deny))

[matchers]
m = (p.role == "*" || g(r.role, p.role)) && among(r.operation, p.operations) && named(r.model, r.version, p.models) \
&& tagged(r.tags, p.tags) && untagged(r.tags, p.not_tags) && belongs(r.tenant, p.tenants) \
&& has(r.attributes, p.attributes) && comes_from(r.source, p.networks) && comes_from_outside(r.source, p.not_networks) \
&& during(r.time, p.times) && outside(r.time, p.not_times) \
&& foreign(r.tags, r.tenant, r.operation, p.isolation)
"""
EVERYONE: Final = "*"
_TENANT_TAG: Final = "tenant:"
_DEEPEST: Final = 10
"""Casbin follows inheritance so far."""
_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)|24:00", re.ASCII)
_MINUTES_OF_DAY: Final = 1440
_PATTERN: Final = re.compile(r"[^\s\x00-\x1f\x7f]{1,200}")
_T = TypeVar("_T")


class Decision(NamedTuple):
    """Whether a request is allowed, and the name of the rule that denied it, if one did."""

    allowed: bool
    rule: str


class Rule(NamedTuple):
    """A rule as Casbin sees it: text only, empty where the rule does not care. In the order of the model's ``p``."""

    name: str
    role: str
    operations: str = ""
    models: str = ""
    tags: str = ""
    not_tags: str = ""
    tenants: str = ""
    attributes: str = ""
    networks: str = ""
    not_networks: str = ""
    times: str = ""
    not_times: str = ""
    isolation: str = ""
    effect: str = "allow"


_ISOLATION: Final = Rule("tenant isolation", EVERYONE, isolation="tenant", effect="deny")
_BUILTIN_RULES: Final = (
    Rule("anyone may see whether the server lives", ANONYMOUS_ROLE, "health"),
    Rule("viewers see", "viewer", "metadata repository.index statistics metrics page"),
    Rule("users infer", "user", "infer"),
    Rule("operators change what is served", "operator", "repository.load repository.unload"),
    Rule("admins administer", "admin", "accounts"),
)


# --------------------------------------------------------------------------------------------------------------------
# What the model's matcher calls. An empty pattern is a condition that the rule does not have.
# --------------------------------------------------------------------------------------------------------------------
def _among(operation: str, operations: str) -> bool:
    return not operations or operation in operations.split(" ")


def _named(model: str, version: str, patterns: str) -> bool:
    # A request for no model in particular is none for a certain model.
    if not patterns:
        return True
    return bool(model) and any(
        fnmatchcase(model, pattern) or fnmatchcase(f"{model}/{version}", pattern) for pattern in patterns.split(" ")
    )


def _tagged(tags: frozenset[str], wanted: str) -> bool:
    return not wanted or not tags.isdisjoint(wanted.split(" "))


def _untagged(tags: frozenset[str], unwanted: str) -> bool:
    return not unwanted or tags.isdisjoint(unwanted.split(" "))


def _belongs(tenant: str, tenants: str) -> bool:
    return not tenants or tenant in tenants.split(" ")


def _has(attributes: Mapping[str, str], wanted: str) -> bool:
    if not wanted:
        return True
    return all(attributes.get(name) in values for name, values in _loads(wanted).items())


def _comes_from(source: Source, networks: str) -> bool:
    return not networks or source.within(_networks(networks))


def _comes_from_outside(source: Source, networks: str) -> bool:
    return not networks or not source.within(_networks(networks))


def _during(moment: float, times: str) -> bool:
    return not times or any(window.holds(moment) for window in _windows(times))


def _outside(moment: float, times: str) -> bool:
    return not times or not _during(moment, times)


def _foreign(tags: frozenset[str], tenant: str, operation: str, isolation: str) -> bool:
    """Whether a model belongs to other tenants only. Who has no tenant may still load and unload it."""
    if not isolation:
        return True
    owners = {tag[len(_TENANT_TAG) :] for tag in tags if tag.startswith(_TENANT_TAG)}
    if not owners or tenant in owners:
        return False
    return bool(tenant) or not operation.startswith("repository.")


@functools.lru_cache(maxsize=1024)
def _loads(text: str) -> dict[str, list[str]]:
    wanted: dict[str, list[str]] = json.loads(text)
    return wanted


@functools.lru_cache(maxsize=1024)
def _networks(text: str) -> tuple[Any, ...]:
    return tuple(to_network(item) for item in text.split(" "))


class Window(NamedTuple):
    """Minutes of certain days of the week, in a time zone. A window over midnight belongs to the day it begins."""

    days: frozenset[int]
    start: int
    end: int
    zone: datetime.tzinfo

    def holds(self, moment: float) -> bool:
        """Whether a moment, in seconds since the epoch, is within."""
        local = datetime.datetime.fromtimestamp(moment, self.zone)
        minute, day = local.hour * 60 + local.minute, local.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        if minute >= self.start:
            return day in self.days
        return minute < self.end and (day - 1) % 7 in self.days


@functools.lru_cache(maxsize=1024)
def _windows(text: str) -> tuple[Window, ...]:
    return tuple(Window(frozenset(days), start, end, _zone(zone)) for days, start, end, zone in json.loads(text))


def _zone(name: str) -> datetime.tzinfo:
    # Without the system's database of time zones there still is UTC.
    return datetime.timezone.utc if name == "UTC" else zoneinfo.ZoneInfo(name)


_FUNCTIONS: Final[Mapping[str, Callable[..., bool]]] = {
    "among": _among,
    "named": _named,
    "tagged": _tagged,
    "untagged": _untagged,
    "belongs": _belongs,
    "has": _has,
    "comes_from": _comes_from,
    "comes_from_outside": _comes_from_outside,
    "during": _during,
    "outside": _outside,
    "foreign": _foreign,
}


class Policy:
    """All rules. Thread-safe, and the same for as long as it exists."""

    def __init__(self, roles: Mapping[str, tuple[str, ...]], rules: tuple[Rule, ...]) -> None:
        self.roles: Final = frozenset(roles)
        self.uses_networks: Final = any(rule.networks or rule.not_networks for rule in rules)
        self.uses_models: Final = any(rule.models for rule in rules)
        self.uses_time: Final = any(rule.times or rule.not_times for rule in rules)
        # Casbin logs each decision with all it was asked, whatever happens to its loggers' configuration later.
        for name in ("casbin", "casbin.enforcer", "casbin.policy", "casbin.role"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        self._lock = threading.Lock()
        model = casbin.Enforcer.new_model(text=_MODEL)
        self._enforcer = casbin.Enforcer(model)
        for name, function in _FUNCTIONS.items():
            self._enforcer.add_function(name, function)
        self._enforcer.add_policies([list(rule) for rule in (_ISOLATION, *rules)])
        links = [[role, inherited] for role, all_inherited in roles.items() for inherited in all_inherited]
        if links:
            self._enforcer.add_grouping_policies(links)

    @classmethod
    def builtin(cls) -> Policy:
        """What holds without a policy file."""
        return cls(BUILTIN_ROLES, _BUILTIN_RULES)

    @classmethod
    def load(cls, path: Path | None) -> Policy:
        """Read the file, if there is one. Raises ``ConfigError``."""
        return cls.builtin() if path is None else parse_policy(read_yaml(path), str(path))

    def decide(
        self, who: Identity, operation: str, model: ModelRefLike | None, source: Source, moment: float
    ) -> Decision:
        """Whether a request at this moment (seconds since the epoch) is allowed. ``model`` is None for all models."""
        name, version, tags = (model.name, model.version, model.tags) if model is not None else ("", "", frozenset())
        # Casbin changes its tables of roles and functions while it is asked.
        with self._lock:
            allowed, explanation = self._enforcer.enforce_ex(
                who.role, who.tenant, who.attributes, operation, name, version, tags, source, moment
            )
        return Decision(bool(allowed), explanation[0] if explanation else "")


# --------------------------------------------------------------------------------------------------------------------
# The file
# --------------------------------------------------------------------------------------------------------------------
def _to_pattern(value: object) -> str:
    text = to_text(value)
    if not _PATTERN.fullmatch(text):
        raise ValueError(f"'{text[:50]}' may not hold spaces")
    return text


def _words(convert: Callable[[object], object]) -> Callable[[object], str]:
    def convert_all(value: object) -> str:
        # A list with nothing in it would read as no condition at all, the opposite of what it says.
        items = to_many(convert)(value)
        if not items:
            raise ValueError("is empty: remove it, or say what is meant")
        return " ".join(str(item) for item in items)

    return convert_all


def _to_attributes(value: object) -> str:
    if not isinstance(value, dict) or not value:
        raise ValueError("must map attributes of the caller to the values they may have")
    wanted = {to_name(name): list(to_many(to_name)(values)) for name, values in value.items()}
    if not all(wanted.values()):
        raise ValueError("gives an attribute no value it may have")
    return json.dumps(wanted, sort_keys=True)


def _to_minute(value: object) -> int:
    # YAML 1.1 reads 18:00 as the number 1080, in base 60: as it happens, the minute of the day.
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MINUTES_OF_DAY:
        return value
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError(f'\'{value}\' is not a time of day, such as "08:30" or "24:00"')
    hours, minutes = value.split(":")
    return int(hours) * 60 + int(minutes)


def _to_day(value: object) -> list[int]:
    first, _, last = to_text(value).lower().partition("-")
    if first not in _DAYS or (last or first) not in _DAYS:
        raise ValueError(f"'{value}' is not a day of the week or a range of them, such as mon or mon-fri")
    start = _DAYS.index(first)
    length = (_DAYS.index(last or first) - start) % 7 + 1
    return [(start + offset) % 7 for offset in range(length)]


def _to_zone(value: object) -> str:
    name = to_text(value)
    try:
        _zone(name)
    except (ValueError, OSError, LookupError):
        raise ValueError(f"'{name}' is not a time zone this machine knows, such as UTC or Europe/Berlin") from None
    return name


def _times(section: Section, key: str) -> str:
    value = section.raw(key)
    if value is MISSING:
        return ""
    windows: list[tuple[list[int], int, int, str]] = []
    items = value if isinstance(value, list) else [value]
    if not items:
        section.report(key, "is empty: remove it, or say what is meant")
    for index, item in enumerate(items):
        window = Section(item, f"{section.at(key)}[{index}]", section.problems)
        every_day: tuple[list[int], ...] = (list(range(7)),)
        days = window.get("days", every_day, to_many(_to_day))
        windows.append(
            (
                sorted({day for group in days for day in group}),
                window.get("from", 0, _to_minute) % _MINUTES_OF_DAY,
                window.get("to", _MINUTES_OF_DAY, _to_minute),
                window.get("timezone", "UTC", _to_zone),
            )
        )
        window.finish()
    return json.dumps(windows)


def _roles(root: Section, builtin: bool) -> dict[str, tuple[str, ...]]:
    roles: dict[str, tuple[str, ...]] = dict(BUILTIN_ROLES) if builtin else {ANONYMOUS_ROLE: ()}
    section = root.section("roles")
    nothing: tuple[str, ...] = ()
    for key in section.data:
        try:
            name = to_name(key)
        except ValueError as error:
            section.report(str(key), str(error))
            continue
        roles[name] = section.get(name, nothing, to_many(to_name))
    for name, inherited in roles.items():
        for other in inherited:
            if other not in roles:
                section.report(name, f"inherits from '{other}', which is no role; there are {', '.join(sorted(roles))}")
    _check_inheritance(section, roles)
    return roles


def _check_inheritance(section: Section, roles: Mapping[str, tuple[str, ...]]) -> None:
    def depth(name: str, above: tuple[str, ...]) -> int:
        if name in above:
            raise ValueError(f"inherits from itself: {' → '.join((*above[above.index(name) :], name))}")
        return 1 + max((depth(other, (*above, name)) for other in roles.get(name, ())), default=0)

    for name in roles:
        try:
            if depth(name, ()) > _DEEPEST:
                section.report(name, f"inherits through more than {_DEEPEST} roles")
        except ValueError as error:
            section.report(name, str(error))
    if roles.get(ANONYMOUS_ROLE):
        section.report(ANONYMOUS_ROLE, "cannot inherit: give callers without a token rights by rules of their own")


def _rule(value: object, path: str, roles: Mapping[str, tuple[str, ...]], problems: list[str]) -> list[Rule]:
    section = Section(value, path, problems)
    effect = section.get("effect", "allow", to_choice(("allow", "deny")))
    rule = Rule(
        name=section.require("name", "", to_text, "what the rule is for; it stands in the audit log"),
        role="",
        operations=section.get("operations", "", _words(to_operation)),
        models=section.get("models", "", _words(_to_pattern)),
        tags=section.get("tags", "", _words(_to_pattern)),
        not_tags=section.get("not_tags", "", _words(_to_pattern)),
        tenants=section.get("tenants", "", _words(to_name)),
        attributes=section.get("attributes", "", _to_attributes),
        networks=section.get("networks", "", _words(to_network)),
        not_networks=section.get("not_networks", "", _words(to_network)),
        times=_times(section, "times"),
        not_times=_times(section, "not_times"),
        effect=effect,
    )
    nobody: tuple[str, ...] = ()
    named: tuple[str, ...]
    if effect == "allow":
        # Everyone includes callers without a token. Whoever means them shall name them.
        named = section.require("roles", nobody, to_many(to_name), "whom the rule allows it")
        if not rule.operations and not section.has("operations"):
            section.report("operations", "is missing: what does the rule allow?")
    else:
        named = section.get("roles", (EVERYONE,), to_many(to_name))
    if section.has("roles") and not named:
        section.report("roles", "is empty: remove it, or say who is meant")
    for role in named:
        if role not in roles and role != EVERYONE:
            section.report("roles", f"'{role}' is no role; there are {', '.join(sorted(roles))}")
    section.finish()
    return [rule._replace(role=role) for role in named]


def parse_policy(document: object, source: str) -> Policy:
    """Check a parsed policy file. Raises ``ConfigError`` with every mistake.

    Keys: ``extends`` (``builtin``, or ``none`` to begin without roles and rules), ``roles`` (name to the roles it
    inherits from), ``rules`` (``name``, ``effect``, ``roles``, and conditions that must all hold: ``operations``,
    ``models``, ``tags``, ``not_tags``, ``tenants``, ``attributes``, ``networks``, ``not_networks``, ``times``,
    ``not_times``).
    """
    problems: list[str] = []
    root = Section(document, "", problems)
    builtin = root.get("extends", "builtin", to_choice(("builtin", "none"))) == "builtin"
    roles = _roles(root, builtin)
    listed = root.raw("rules")
    rules: list[Rule] = list(_BUILTIN_RULES) if builtin else []
    if listed is not MISSING and not isinstance(listed, list):
        root.report("rules", f"must be a list, not {kind_of(listed)}")
    names: set[str] = set()
    for index, item in enumerate(listed if isinstance(listed, list) else ()):
        for rule in _rule(item, f"rules[{index}]", roles, problems):
            if rule not in rules:
                rules.append(rule)
        name = item.get("name") if isinstance(item, dict) else None
        if isinstance(name, str) and name in names:
            problems.append(f"rules[{index}].name: '{name}' is the name of another rule")
        if isinstance(name, str):
            names.add(name)
    root.finish()
    if problems:
        raise ConfigError(source, problems)
    return Policy(roles, tuple(rules))
