#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes four bare hosts on this machine to an inference service and asks it; or removes them.

Every step may be repeated: what is there already stays, and the second run changes nothing.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable

import docker_ready
import environment
from _console import CACHE, ROOT, Failure, Stopwatch, run, say

INVENTORY = ROOT / "inventories" / "demo"
VENV = ROOT / ".venv"
PLAYBOOK = VENV / "bin" / "ansible-playbook"
# The hosts are started by the same playbook as those of the Molecule scenarios. It talks to Docker, not to hosts.
LOCAL = {"ANSIBLE_CONFIG": str(ROOT / "tools" / "test_host" / "ansible.cfg")}


def make_environment() -> None:
    """Create or update the virtual environment."""
    environment.ensure(VENV)


def make_image() -> None:
    """Build the image of the hosts."""
    run([sys.executable, ROOT / "tools" / "test_host" / "image.py", "bookworm"])


def start_hosts() -> None:
    """Start the hosts that do not run."""
    run(
        [PLAYBOOK, "-i", INVENTORY, ROOT / "tools" / "test_host" / "up.yml", "-e", "{test_host_recreate: false}"],
        env=LOCAL,
        hint="see what Docker says: docker ps -a; a network that overlaps 198.18.40.0/24 must go first",
    )


def roll_out() -> None:
    """Run what an operator runs."""
    say(f"  ansible-playbook -i {INVENTORY.relative_to(ROOT)} site.yml")
    run([PLAYBOOK, "-i", INVENTORY, ROOT / "site.yml"], hint="the hosts are still there to look at: ssh as shown below")


def ask() -> None:
    """Ask both models through the gateway."""
    run([VENV / "bin" / "python", ROOT / "tools" / "ask.py", "--inventory", INVENTORY])


def remove() -> None:
    """Remove hosts, network, secrets and reports of the demo."""
    say("removing the demo's hosts, network, secrets and reports")
    if PLAYBOOK.exists():
        run([PLAYBOOK, "-i", INVENTORY, ROOT / "tools" / "test_host" / "down.yml"], env=LOCAL)
    else:
        raise Failure("There is no virtual environment to remove the demo with.", "make venv demo-down")
    for name in ("secrets", "reports"):
        shutil.rmtree(INVENTORY / name, ignore_errors=True)


def main() -> None:
    """Run the steps, saying which, and how long each took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts-only", action="store_true", help="stop when the bare hosts run")
    parser.add_argument("--remove", action="store_true", help="remove everything of the demo")
    arguments = parser.parse_args()
    if arguments.remove:
        remove()
        return
    steps: list[tuple[str, Callable[[], None]]] = [
        ("virtual environment of the control node", make_environment),
        ("Docker", docker_ready.ensure),
        ("image of a bare Debian 12 host", make_image),
        ("four bare hosts: gateway1, inference1, inference2, ops1", start_hosts),
        ("site.yml: from bare hosts to a verified service", roll_out),
        ("predictions through the gateway", ask),
    ]
    if arguments.hosts_only:
        steps = steps[:4]
    (CACHE / "logs").mkdir(parents=True, exist_ok=True)
    whole = Stopwatch()
    for number, (title, step) in enumerate(steps, start=1):
        watch = Stopwatch()
        say(f"\n[{number}/{len(steps)}] {title}  (so far {whole})")
        step()
        say(f"  done in {watch}")
    say(f"\nAll of it took {whole}. Remove it with: make demo-down")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"error: {failure}")
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same command again to go on")
