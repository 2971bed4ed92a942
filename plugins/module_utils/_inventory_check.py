# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares an inventory with what the roles accept, without any host.

Works on plain data: the options of each role, the groups, and the variables of each host as they stand in the
inventory. What needs Ansible's templating is handed in as a function.
"""

from __future__ import annotations

import difflib
import re
import typing as t
from dataclasses import dataclass, field

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.ai102.inference.plugins.module_utils._verdict import Check, Status

#: Groups every inventory has.
_IMPLICIT_GROUPS: t.Final = ("all", "ungrouped")

#: Values of these are never shown, whatever the specs say.
_SECRET_NAME: t.Final = re.compile(r"pass(word|phrase)|secret(?!s_dir)|token|api_keys?|private_key", re.IGNORECASE)


class Undefined(Exception):
    """A value cannot be had: the message is for people, a hint of the role's author where there is one."""


class Unsettled(Exception):
    """A value depends on what is known only later, such as facts of the host."""


@dataclass
class RoleSpec:
    """What one role accepts: options by name (over all entry points), and its defaults as they are written."""

    name: str
    options: dict[str, dict[str, t.Any]] = field(default_factory=dict)
    defaults: dict[str, t.Any] = field(default_factory=dict)
    main: dict[str, dict[str, t.Any]] = field(default_factory=dict)

    @classmethod
    def from_documents(
        cls, name: str, specs: t.Mapping[str, t.Any] | None, defaults: t.Mapping[str, t.Any] | None
    ) -> RoleSpec:
        """Read `meta/argument_specs.yml` and `defaults/main.yml`; the entry point `main` has the last word."""
        role = cls(name, defaults=dict(defaults or {}))
        entries = dict((specs or {}).get("argument_specs") or {})
        for entry in sorted(entries, key=lambda key: (key == "main", key)):
            role.options.update((entries[entry] or {}).get("options") or {})
        role.main = dict((entries.get("main") or {}).get("options") or {})
        return role

    @property
    def known(self) -> set[str]:
        """Every variable the role knows."""
        return {*self.options, *self.defaults}

    def required(self) -> list[str]:
        """Variables the inventory has to set: said so in the specs of `main`, or by a default that is `undef(…)`.

        What the other entry points require is handed over by their callers.
        """
        named = [name for name, option in self.main.items() if option.get("required")]
        by_default = [
            name
            for name, value in self.defaults.items()
            if isinstance(value, str) and re.search(r"\bundef\s*\(", value)
        ]
        return list(dict.fromkeys([*named, *by_default]))


@dataclass(frozen=True)
class Finding:
    """Something wrong that may be the same for many hosts."""

    check: str
    expected: str
    actual: str
    hint: str
    status: Status = "fail"


class Inventory(t.Protocol):
    """What is known of the inventory; the action reads it from Ansible, tests build it by hand."""

    @property
    def groups(self) -> t.Mapping[str, t.Sequence[str]]:
        """The hosts of each group."""

    def variables(self, host: str) -> t.Mapping[str, t.Any]:
        """The variables of a host, not templated, without facts."""

    def value(self, host: str, name: str) -> t.Any:
        """The value of a variable of a host. Raises `Undefined`, `Unsettled`."""

    def origin(self, host: str, name: str) -> str:
        """Where a variable is set, `group_vars/all.yml:12`; empty when that is not known."""


class InventoryCheck:
    """All checks of an inventory, as one list in which the same finding on many hosts stands once."""

    def __init__(
        self,
        inventory: Inventory,
        roles: t.Mapping[str, RoleSpec],
        tiers: t.Mapping[str, t.Sequence[str]],
        hosts: t.Sequence[str],
        *,
        required_tiers: t.Sequence[str] = (),
        known: t.Sequence[str] = (),
        shared_prefix: str = "ai102",
    ) -> None:
        """`tiers` names the roles of each group (`all` for every host), `hosts` those whose variables are checked."""
        self.inventory = inventory
        self.roles = roles
        self.tiers = tiers
        self.hosts = list(hosts)
        self.required_tiers = required_tiers
        self.prefixes = tuple(f"{name}_" for name in (*roles, shared_prefix))
        self.known = {name for role in roles.values() for name in role.known} | set(known)
        self.findings: dict[Finding, list[str]] = {}
        self.seen = 0
        self.members = {name: set(members) for name, members in inventory.groups.items()}

    # ------------------------------------------------------------------------------------------------- the checks

    def run(self) -> list[Check]:
        """Check everything. Raises nothing that the inventory can cause."""
        checks: list[Check] = []
        for name, method, expected in (
            ("groups", self.check_groups, "the tiers of the site, spelled right"),
            ("addresses", self.check_addresses, "one address for each host"),
            ("variables", self.check_names, "variables that a role knows"),
            ("types", self.check_types, "values of the right type"),
            ("required", self.check_required, "everything that must be set"),
        ):
            before = len(self.findings)
            self.seen = 0
            method()
            if len(self.findings) == before:
                checks.append(Check(f"inventory.{name}", "all", "pass", expected, f"{self.seen} looked at"))
        for finding, hosts in self.findings.items():
            checks.append(
                Check(finding.check, self.label(hosts), finding.status, finding.expected, finding.actual, finding.hint)
            )
        return checks

    def label(self, hosts: t.Sequence[str]) -> str:
        """One host's name, the smallest group that has exactly these hosts, or their names."""
        wanted = set(hosts)
        if len(wanted) == 1 and len(self.hosts) > 1:
            return next(iter(wanted))
        if wanted == set(self.hosts):
            return "all"
        limited = set(self.hosts)
        groups = [name for name, members in self.members.items() if members & limited == wanted]
        if groups:
            return min(groups, key=lambda name: (len(self.members[name]), name not in self.tiers, name))
        names = sorted(wanted)
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

    def roles_of(self, host: str) -> list[RoleSpec]:
        """The roles that are applied to a host."""
        names = [
            role
            for tier, roles in self.tiers.items()
            if tier == "all" or host in self.members.get(tier, ())
            for role in roles
        ]
        return [self.roles[name] for name in dict.fromkeys(names) if name in self.roles]

    def add(self, host: str, finding: Finding) -> None:
        """Collect a finding of a host."""
        hosts = self.findings.setdefault(finding, [])
        if host not in hosts:
            hosts.append(host)

    def check_groups(self) -> None:
        """Required tiers have hosts, and no group is a mistyped tier."""
        tiers = [name for name in self.tiers if name != "all"]
        for tier in self.required_tiers:
            self.seen += 1
            if not self.members.get(tier):
                self.add(
                    "all",
                    Finding(
                        f"inventory.tier.{tier}",
                        f"at least one host in the group {tier}",
                        "no host" if tier in self.members else "no such group",
                        f"Put a host into the group {tier}. One host may be in every tier.",
                    ),
                )
        for group, members in self.members.items():
            self.seen += 1
            if group in tiers or group in _IMPLICIT_GROUPS or not members:
                continue
            for near in difflib.get_close_matches(group, tiers, 1, 0.8):
                # `gateways_north` below `gateways` is a group like any other.
                if not members <= self.members.get(near, set()):
                    self.add(
                        "all",
                        Finding(
                            f"inventory.group.{group}",
                            f"a tier ({', '.join(tiers)}) or a group of your own",
                            f"{group}, which looks like {near}",
                            f"Rename the group to {near}; its hosts get no role of that tier now.",
                        ),
                    )

    def check_addresses(self) -> None:
        """No two hosts of the tiers have the same address."""
        in_tiers = {
            host for tier in self.tiers if tier != "all" for host in self.members.get(tier, ()) if host in self.hosts
        }
        owners: dict[str, list[str]] = {}
        for host in self.hosts:
            if host not in in_tiers:
                continue
            self.seen += 1
            variables = self.inventory.variables(host)
            name = next((key for key in ("ai102_address", "ansible_host") if key in variables), "")
            try:
                address = str(self.inventory.value(host, name)) if name else host
            except (Undefined, Unsettled):
                continue  # said elsewhere, or not known before the host is asked
            owners.setdefault(address, []).append(host)
        for address, hosts in owners.items():
            if len(hosts) > 1:
                for host in hosts:
                    self.add(
                        host,
                        Finding(
                            f"inventory.address.{address}",
                            "an address of its own",
                            f"{address} is the address of {', '.join(hosts)}",
                            "Set ai102_address (or ansible_host) of each host to where the other tiers reach it.",
                        ),
                    )

    def check_names(self) -> None:
        """Every variable with a role's prefix is one the role knows; others that look like one get a warning."""
        verdicts: dict[str, tuple[str, Status] | None] = {}
        for host in self.hosts:
            for name in self.inventory.variables(host):
                self.seen += 1
                if name not in verdicts:
                    verdicts[name] = self._judge_name(name)
                judged = verdicts[name]
                if judged is None:
                    continue
                suggestion, status = judged
                where = self.inventory.origin(host, name)
                self.add(
                    host,
                    Finding(
                        f"inventory.variable.{name}",
                        "a variable that a role knows",
                        f"{name} is unknown" + (f" ({where})" if where else ""),
                        f"Did you mean {suggestion}?"
                        if suggestion
                        else "No role reads it: remove it, or look at the README.",
                        status,
                    ),
                )

    def _judge_name(self, name: str) -> tuple[str, Status] | None:
        if name in self.known or name.startswith(("ansible_", "__")):
            return None
        if name.startswith(self.prefixes):
            prefix = max((prefix for prefix in self.prefixes if name.startswith(prefix)), key=len)
            mine = sorted(known for known in self.known if known.startswith(prefix))
            near = difflib.get_close_matches(name, mine, 1, 0.7) or difflib.get_close_matches(
                name, sorted(self.known), 1, 0.8
            )
            return (near[0] if near else "", "fail")
        near = difflib.get_close_matches(name, sorted(self.known), 1, 0.9)
        return (near[0], "warn") if near else None

    def check_types(self) -> None:
        """Values have the type, the choices and the elements that the specs of the host's roles say."""
        for host in self.hosts:
            variables = self.inventory.variables(host)
            for role in self.roles_of(host):
                for name, option in role.options.items():
                    if name not in variables:
                        continue
                    try:
                        value = self.inventory.value(host, name)
                    except (Undefined, Unsettled) as error:
                        if isinstance(error, Undefined) and name not in role.required():
                            self._cannot_be_had(host, name, str(error))
                        continue
                    self.seen += 1
                    for message in validate_value(name, option, value):
                        where = self.inventory.origin(host, name)
                        self.add(
                            host,
                            Finding(
                                f"inventory.type.{name}",
                                describe_option(option),
                                message + (f" ({where})" if where else ""),
                                str(_first_sentence(option.get("description", ""))),
                            ),
                        )

    def _cannot_be_had(self, host: str, name: str, message: str) -> None:
        where = self.inventory.origin(host, name)
        self.add(
            host,
            Finding(
                f"inventory.value.{name}",
                "a value",
                f"cannot be evaluated: {message}" + (f" ({where})" if where else ""),
                "Correct the expression in the inventory.",
            ),
        )

    def check_required(self) -> None:
        """What a role cannot do without has a value."""
        for host in self.hosts:
            for role in self.roles_of(host):
                for name in role.required():
                    self.seen += 1
                    try:
                        value = self.inventory.value(host, name)
                    except Undefined as error:
                        option = role.options.get(name, {})
                        self.add(
                            host,
                            Finding(
                                f"inventory.required.{name}",
                                f"{name} is set ({option.get('type', 'str')})",
                                "undefined",
                                str(error) or str(_first_sentence(option.get("description", ""))),
                            ),
                        )
                    except Unsettled:
                        continue
                    else:
                        if value is None or (isinstance(value, str) and not value):
                            self.add(
                                host,
                                Finding(
                                    f"inventory.required.{name}", f"{name} is set", "empty", f"Give {name} a value."
                                ),
                            )


def _first_sentence(description: object) -> str:
    text = str(description[0]) if isinstance(description, list) and description else str(description or "")
    return re.sub(r"\b[CVIBOM]\(([^)]*)\)", r"\1", text.partition(". ")[0]).strip().rstrip(".")


def describe_option(option: t.Mapping[str, t.Any]) -> str:
    """`int`, `list of dict`, `one of a, b`."""
    kind = str(option.get("type", "str"))
    if option.get("elements"):
        kind = f"{kind} of {option['elements']}"
    if option.get("choices"):
        kind += ", one of " + ", ".join(str(choice) for choice in option["choices"])
    return kind


def _for_validation(option: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The part of an option that says what a value may be; defaults would otherwise be filled in."""
    kept = {key: option[key] for key in ("type", "elements", "choices") if key in option}
    for key in ("required_together", "mutually_exclusive", "required_one_of", "required_if", "required_by"):
        if key in option:
            kept[key] = option[key]
    if option.get("options"):
        kept["options"] = {
            name: {**_for_validation(suboption), "required": bool(suboption.get("required", False))}
            for name, suboption in option["options"].items()
        }
    return kept


def validate_value(name: str, option: t.Mapping[str, t.Any], value: t.Any) -> list[str]:
    """What is wrong with a value, as sentences that show no secret."""
    if value is None:
        return []  # an option that was left empty counts as not set
    result = ArgumentSpecValidator({name: _for_validation(option)}).validate({name: value})
    messages = [str(message) for message in result.error_messages]
    if messages and (option.get("no_log") or _SECRET_NAME.search(name)):
        return [f"the value of {name} is of the wrong kind (it is not shown)"]
    return messages
