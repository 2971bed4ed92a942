#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts the nftables table of a host in place, with a way back that needs no connection."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nft_ruleset
short_description: The firewall of a host, with a way back that needs no connection
version_added: "0.1.0"
author:
  - AI-102 inference maintainers (@ai102)
description:
  - Renders the rules of P(ai102.inference.flow_rules#filter) into the nftables table C(inet ai102) and loads it
    in one transaction. No other table is touched, so that those of Docker and others stay as they are.
  - Before anything is changed, rules that would not let in the SSH connection that the module itself came by are
    refused, and C(nft) checks the file.
  - Over SSH, the new rules are only tried out at first. A timer on the host brings the former ones back, unless the
    module comes in again by a new connection in time. Only then they are written to disk, for the next start of the
    host. So a mistake that no check foresees, or a control node that goes away half-way, does not lock anybody out.
  - The table as it is loaded is compared on every run, so that rules which somebody flushed or edited are found and
    undone.
  - Inbound packets are dropped unless a rule lets them in; those that Docker sends on to a published port of the host
    are subject to the same rules. What is forwarded besides is left to whoever forwards it.
attributes:
  check_mode:
    description: Checks and shows everything and changes nothing. Works on a host where nftables is not installed yet.
    support: full
  diff_mode:
    description: Shows the rules, or the table as it was loaded and as it is.
    support: full
  idempotent:
    description: Does nothing where files and table are as they shall be.
    support: full
options:
  state:
    description: Whether the table shall be there.
    type: str
    choices: [present, absent]
    default: present
  rules:
    description: The rules as P(ai102.inference.flow_rules#filter) returns them.
    type: dict
    default: {}
    suboptions:
      inbound:
        description: What is let in.
        type: list
        elements: dict
        default: []
      outbound:
        description: What may be reached, for O(output_policy=drop).
        type: list
        elements: dict
        default: []
  control_networks:
    description:
      - Networks that the host is managed from.
      - When empty, the address that the present SSH connection really comes from.
      - Where there is no SSH connection either, what it was last time.
    type: list
    elements: str
    default: []
  check_control:
    description:
      - Whether to refuse rules that would not let in the SSH connection that the module came by.
      - Without it, such rules are tried out, and undone by the timer.
    type: bool
    default: true
  output_policy:
    description: What happens to outbound packets that no rule names.
    type: str
    choices: [accept, drop]
    default: accept
  log_prefix:
    description: Begin of the kernel's log lines about dropped packets. Empty for no log.
    type: str
    default: "ai102 drop "
  log_rate:
    description: Log lines about dropped packets for each minute, at most.
    type: int
    default: 10
  revert_after:
    description: Seconds after which the former rules come back unless a new connection could be made.
    type: int
    default: 40
  phase:
    description: Set by the action plugin of the same name.
    type: str
    choices: [apply, confirm, status]
    default: apply
  confirm:
    description: Set by the action plugin of the same name.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Let in what the flow matrix says
  ai102.inference.nft_ruleset:
    rules: "{{ flows | ai102.inference.flow_rules(inventory_hostname, groups | ai102.inference.flow_hosts(hostvars)) }}"
  become: true

- name: Take the table away
  ai102.inference.nft_ruleset:
    state: absent
  become: true
"""

RETURN = r"""
reasons:
  description: Why something was changed.
  returned: always
  type: list
  elements: str
  sample: ["the rules have changed"]
control_networks:
  description: Networks that the host is managed from, as they were put into the rules.
  returned: with O(state=present)
  type: list
  elements: str
ssh_peer:
  description: Address that the SSH connection came from, empty for another kind of connection.
  returned: with O(state=present)
  type: str
confirmed:
  description: Whether the new rules were confirmed by a new connection.
  returned: when new rules were loaded over SSH
  type: bool
"""

import contextlib
import json
import os
import shutil
import tempfile
import typing as t
from collections.abc import Sequence

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ai102.inference.plugins.module_utils import _flows, _nftables

DIRECTORY = "/etc/ai102/firewall"
RULESET = f"{DIRECTORY}/ruleset.nft"
# The table as `nft` lists it when it was loaded, to find out when somebody has changed it.
LISTING = f"{DIRECTORY}/loaded.nft"
STATE = f"{DIRECTORY}/state.json"
UNIT_NAME = "ai102-firewall.service"
UNIT = f"/etc/systemd/system/{UNIT_NAME}"
WANTS = f"/etc/systemd/system/sysinit.target.wants/{UNIT_NAME}"
RUN = "/run/ai102-firewall"
RESTORE = f"{RUN}/restore.nft"
PENDING = f"{RUN}/pending.json"
REVERT = "ai102-firewall-revert"


class Failure(Exception):
    """The rules cannot be used; the message says why."""


class Ruleset:
    """One call of the module."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params: dict[str, t.Any] = module.params
        self.nft: str | None = module.get_bin_path("nft", opt_dirs=["/usr/sbin", "/sbin"])

    # ------------------------------------------------------------------------------------------------------- tools

    def command(self, *arguments: str, data: str | None = None, check: bool = True) -> tuple[int, str]:
        """Runs a command; its output and, with `check`, an error for a bad exit status."""
        code, output, errors = self.module.run_command(list(arguments), data=data, binary_data=False)
        if check and code != 0:
            raise Failure(f"{' '.join(arguments)}: {(errors or output).strip()}")
        return int(code), str(output)

    def listing(self) -> str:
        """Our table as it is loaded now, without its counters; empty where it is not loaded."""
        if self.nft is None:
            return ""
        # Protocols as numbers: nft knows their names only while some package has put /etc/protocols there.
        code, output = self.command(self.nft, "-s", "-p", "list", "table", "inet", _nftables.TABLE, check=False)
        return output if code == 0 else ""

    def load(self, text: str, check_only: bool = False) -> None:
        """Loads a file, or only checks it."""
        if self.nft is None:
            raise RuntimeError("nft was not looked for")
        descriptor, path = tempfile.mkstemp(prefix="ai102-", suffix=".nft", dir=self.module.tmpdir)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        try:
            self.command(self.nft, *(["-c"] if check_only else []), "-f", path)
        except Failure as failure:
            raise Failure(f"nft refuses the rules: {failure}\n{text}") from failure
        finally:
            os.unlink(path)

    # ----------------------------------------------------------------------------------------------------- present

    def present(self) -> dict[str, t.Any]:
        """State `present`, first half: load the rules where they differ."""
        connection = ssh_connection()
        control = self.control(connection)
        rules = self.params["rules"] or {}
        inbound = _nftables.with_control([_nftables.rule_of(rule) for rule in rules.get("inbound") or []], control)
        outbound = _nftables.with_control([_nftables.rule_of(rule) for rule in rules.get("outbound") or []], control)
        text = _nftables.render(
            inbound,
            outbound,
            _nftables.Options(self.params["output_policy"], self.params["log_prefix"], self.params["log_rate"]),
        )
        result: dict[str, t.Any] = {
            "control_networks": [str(network) for network in control],
            "ssh_peer": connection[0] if connection else "",
            "reasons": [],
        }
        if connection and self.params["check_control"]:
            self.check_control(connection, inbound, control)
        if not control and any(rule.get("control") for rule in rules.get("inbound") or []):
            self.module.warn(
                "firewall: this connection is not SSH and firewall_control_networks is not set, so it is not known "
                "where the host is managed from; the flows from 'control' let in nobody"
            )

        stored, loaded, live = read(RULESET), read(LISTING), self.listing()
        diff: dict[str, str] = {"before": "", "after": ""}
        if stored != text:
            result["reasons"].append("the rules have changed" if stored else "there are no rules yet")
            diff = {"before": stored, "after": text}
        elif live != loaded:
            result["reasons"].append("the loaded table was removed" if not live else "the loaded table was changed")
            diff = {"before": live, "after": loaded}
        reload_rules = bool(result["reasons"])
        if read(UNIT) != unit(self.nft or "/usr/sbin/nft") or not os.path.islink(WANTS):
            result["reasons"].append("the unit that loads the rules at start is not in place")
        result.update(
            changed=bool(result["reasons"]), diff={**diff, "before_header": "loaded", "after_header": RULESET}
        )
        if not result["changed"]:
            return result

        if self.nft is None:
            if not self.module.check_mode:
                raise Failure("there is no program nft on this host: install the package nftables")
            return result
        self.load(text, check_only=True)
        if self.module.check_mode:
            return result
        if not reload_rules:
            self.persist(text, live, control)
            return result

        confirm = bool(self.params["confirm"])
        if confirm:
            self.arm()
        try:
            self.load(text)
        except Failure:
            self.disarm()
            raise
        if confirm:
            write(
                PENDING, json.dumps({"connection": connection, "ruleset": text, "control": result["control_networks"]})
            )
            result["pending"] = True
        else:
            self.persist(text, self.listing(), control)
        return result

    def control(self, connection: tuple[str, int, int] | None) -> tuple[_flows.Network, ...]:
        """Networks that the host is managed from."""
        if self.params["control_networks"]:
            return _flows.parse_networks("firewall_control_networks", self.params["control_networks"])
        if connection:
            before = _flows.parse_networks("state", self.state())
            here = _flows.parse_networks("SSH", [connection[0]])
            # Known already, for instance as one of several: no reason for a change.
            return before if any(_flows.contains(network, here[0]) for network in before) else here
        return _flows.parse_networks("state", self.state())

    def state(self) -> list[str]:
        """Networks that the host was managed from last time."""
        try:
            networks = json.loads(read(STATE) or "{}").get("control", [])
        except ValueError:
            return []
        return [str(network) for network in networks]

    def check_control(
        self,
        connection: tuple[str, int, int],
        inbound: Sequence[_flows.Rule],
        control: Sequence[_flows.Network],
    ) -> None:
        """Refuses rules that would not let this very connection in."""
        peer, _peer_port, port = connection
        if _nftables.accepts(inbound, peer, port):
            return
        address = _flows.parse_networks("SSH", [peer])[0]
        if not any(_flows.contains(network, address) for network in control):
            raise Failure(
                f"these rules would cut off the SSH connection of this run: it comes from {peer}, which is not in "
                f"firewall_control_networks ({', '.join(map(str, control))}). Add {peer} or its network there. "
                "Nothing was changed."
            )
        raise Failure(
            f"these rules would cut off the SSH connection of this run: it arrives at port {port}, which no flow from "
            f"'control' opens. Put {port} among the ports of the flow 'ssh'. Nothing was changed."
        )

    # ------------------------------------------------------------------------------------------------ the way back

    def arm(self) -> None:
        """Starts the timer that brings the present rules back."""
        if self.nft is None:
            raise RuntimeError("nft was not looked for")
        if self.timer_runs():  # left by a run that was interrupted: what it tried out was never confirmed
            self.revert()
        os.makedirs(RUN, mode=0o700, exist_ok=True)
        write(RESTORE, _nftables.restoration(self.listing()))
        self.command(self.nft, "-c", "-f", RESTORE)
        self.command("systemctl", "reset-failed", f"{REVERT}.service", f"{REVERT}.timer", check=False)
        self.command(
            "systemd-run",
            "--quiet",
            f"--unit={REVERT}",
            f"--on-active={int(self.params['revert_after'])}",
            "--timer-property=AccuracySec=100ms",
            "--description=Bring the former firewall rules back unless the new ones are confirmed",
            self.nft,
            "-f",
            RESTORE,
        )

    def timer_runs(self) -> bool:
        """Whether the timer waits."""
        return self.command("systemctl", "is-active", "--quiet", f"{REVERT}.timer", check=False)[0] == 0

    def disarm(self) -> None:
        """Stops the timer."""
        self.command("systemctl", "stop", f"{REVERT}.timer", check=False)

    def revert(self) -> None:
        """Brings the former rules back now."""
        self.disarm()
        if os.path.exists(RESTORE) and self.nft:
            self.command(self.nft, "-f", RESTORE)

    def confirmed(self) -> dict[str, t.Any]:
        """Second half: keep the rules, if this is a new connection and they are still there."""
        connection = ssh_connection()
        try:
            pending = json.loads(read(PENDING))
        except ValueError:
            raise Failure("no new rules are waiting to be confirmed") from None
        if connection is None or list(connection) == pending["connection"]:
            return {"changed": False, "confirmed": False}  # the connection from before, which is let in in any case
        if not self.timer_runs():
            raise Failure(
                f"the confirmation came too late: after {self.params['revert_after']} s the former rules came back"
            )
        self.disarm()
        self.persist(pending["ruleset"], self.listing(), _flows.parse_networks("control", pending["control"]))
        os.unlink(PENDING)
        return {"changed": True, "confirmed": True}

    def status(self) -> dict[str, t.Any]:
        """Whether the former rules are back."""
        restored = read(RESTORE).removeprefix(_nftables.removal())
        return {"changed": False, "reverted": not self.timer_runs() and self.listing() == restored}

    # -------------------------------------------------------------------------------------------------------- disk

    def persist(self, text: str, listing: str, control: Sequence[_flows.Network]) -> None:
        """Writes the rules to disk and has them loaded at every start."""
        os.makedirs(DIRECTORY, mode=0o755, exist_ok=True)
        write(RULESET, text)
        write(LISTING, listing)
        write(STATE, json.dumps({"control": [str(network) for network in control]}) + "\n")
        content = unit(self.nft or "/usr/sbin/nft")
        if read(UNIT) != content:
            write(UNIT, content, 0o644)
            self.command("systemctl", "daemon-reload")
        self.command("systemctl", "--quiet", "enable", UNIT_NAME)
        # Loads the same file once more, so that systemd knows the unit as active.
        self.command("systemctl", "start", UNIT_NAME)

    def absent(self) -> dict[str, t.Any]:
        """State `absent`."""
        live = self.listing()
        paths = [path for path in (UNIT, WANTS, DIRECTORY, RUN) if os.path.lexists(path)]
        result = {
            "changed": bool(live or paths),
            "reasons": ["the firewall shall not be there"] if live or paths else [],
            "diff": {"before": live, "after": ""},
        }
        if self.module.check_mode or not result["changed"]:
            return result
        self.disarm()
        if os.path.exists(UNIT):
            self.command("systemctl", "--quiet", "disable", "--now", UNIT_NAME, check=False)
        for path in paths:
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
        self.command("systemctl", "daemon-reload", check=False)
        if self.nft:
            self.load(_nftables.removal())
        return result


def unit(nft: str) -> str:
    """The unit that loads the rules before the network is up."""
    return f"""\
# Managed by Ansible (ai102.inference).
[Unit]
Description=Firewall of the AI-102 inference service
Documentation=man:nft(8)
DefaultDependencies=no
Wants=network-pre.target
# Not stopped on the way down, so that the host is never open. After Debian's own unit, whose file flushes everything.
After=local-fs.target nftables.service
Before=network-pre.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={nft} -f {RULESET}
ExecReload={nft} -f {RULESET}
ExecStop=-{nft} delete table inet {_nftables.TABLE}
ProtectHome=true
ProtectSystem=full
NoNewPrivileges=true
CapabilityBoundingSet=CAP_NET_ADMIN

[Install]
WantedBy=sysinit.target
"""


def read(path: str) -> str:
    """Content of a file, empty where there is none."""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""


def write(path: str, content: str, mode: int = 0o600) -> None:
    """Writes a file so that it appears complete or not at all."""
    if os.path.exists(path) and read(path) == content:
        return
    temporary = f"{path}.tmp"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.chmod(temporary, mode)
    os.rename(temporary, path)


def ssh_connection() -> tuple[str, int, int] | None:
    """The SSH connection that this process was started by: address and port of the other end, and our port.

    Looks at the environments of the processes above this one, because sudo and its like take the variable away.
    """
    process = os.getpid()
    while process > 0:
        try:
            with open(f"/proc/{process}/environ", "rb") as stream:
                variables = stream.read().split(b"\0")
            with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as stream:
                parent = int(stream.read().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return None
        for variable in variables:
            name, _equals, value = variable.partition(b"=")
            if name == b"SSH_CONNECTION":
                parts = value.decode(errors="replace").split()
                if len(parts) == 4 and parts[1].isdigit() and parts[3].isdigit():
                    return mapped(parts[0]), int(parts[1]), int(parts[3])
        process = parent
    return None


def mapped(address: str) -> str:
    """An address without its zone, and an IPv4 address that came in IPv6's clothes as what it is."""
    address = address.partition("%")[0]
    prefix = "::ffff:"
    return address[len(prefix) :] if address.lower().startswith(prefix) and "." in address else address


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "rules": {
                "type": "dict",
                "default": {},
                "options": {
                    "inbound": {"type": "list", "elements": "dict", "default": []},
                    "outbound": {"type": "list", "elements": "dict", "default": []},
                },
            },
            "control_networks": {"type": "list", "elements": "str", "default": []},
            "check_control": {"type": "bool", "default": True},
            "output_policy": {"type": "str", "choices": ["accept", "drop"], "default": "accept"},
            "log_prefix": {"type": "str", "default": "ai102 drop "},
            "log_rate": {"type": "int", "default": 10},
            "revert_after": {"type": "int", "default": 40},
            "phase": {"type": "str", "choices": ["apply", "confirm", "status"], "default": "apply"},
            "confirm": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    ruleset = Ruleset(module)
    try:
        if module.params["phase"] == "confirm":
            result = ruleset.confirmed()
        elif module.params["phase"] == "status":
            result = ruleset.status()
        elif module.params["state"] == "absent":
            result = ruleset.absent()
        else:
            result = ruleset.present()
    except (Failure, _flows.FlowError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
