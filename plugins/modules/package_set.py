#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Installs sets of operating system packages."""

from __future__ import annotations

DOCUMENTATION = r"""
module: package_set
short_description: Install sets of operating system packages
version_added: "0.1.0"
description:
  - Installs the packages that named sets mean on the host's release of Debian or Ubuntu.
  - When all of them are installed it costs one cheap call; C(apt) is asked only for what is missing.
  - A daemon that comes with a package is not started, because it is not configured yet.
author:
  - AI-102 inference maintainers (@ai102)
attributes:
  check_mode:
    description: Predicts changes without making them, on a host where nothing is installed yet as well.
    support: full
  diff_mode:
    description: Names the packages that are added.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
  action:
    description: Runs partly on the control node.
    support: full
options:
  sets:
    description: The declared sets, each a dictionary of V(all) or the codename of a release to a list of packages.
    type: dict
    required: true
  names:
    description: Names of the sets to install.
    type: list
    elements: str
    required: true
  start_services:
    description: Whether daemons that come with a package are started at once, as the distribution does.
    type: bool
    default: false
  cache_valid_time:
    description: Seconds for which a package list that was fetched before is taken as fresh.
    type: int
    default: 3600
requirements:
  - C(dpkg-query), and C(python3-apt) where packages are missing
"""

EXAMPLES = r"""
- name: Install what the gateway needs
  ai102.inference.package_set:
    sets:
      gateway:
        all: [nginx]
    names: [gateway]
"""

RETURN = r"""
packages:
  description: The packages that the sets mean on this host.
  type: list
  elements: str
  returned: always
  sample: [nginx]
missing:
  description: Those that were not installed before.
  type: list
  elements: str
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ai102.inference.plugins.module_utils._packages import (
    PackageSetError,
    missing,
    parse_os_release,
    resolve,
)


def main() -> None:
    """Report which packages are missing; the action plugin installs them."""
    module = AnsibleModule(
        argument_spec={
            "sets": {"type": "dict", "required": True},
            "names": {"type": "list", "elements": "str", "required": True},
            "start_services": {"type": "bool", "default": False},
            "cache_valid_time": {"type": "int", "default": 3600},
        },
        supports_check_mode=True,
    )
    try:
        with open("/etc/os-release", encoding="utf-8") as handle:
            release = parse_os_release(handle.read())
        packages = resolve(module.params["sets"], module.params["names"], release.get("VERSION_CODENAME", ""))
    except (OSError, PackageSetError) as error:
        module.fail_json(msg=str(error))
    command = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Provides}\n"]
    _rc, output, _stderr = module.run_command(command, check_rc=True)
    absent = missing(packages, output)
    module.exit_json(
        changed=bool(absent),
        packages=packages,
        missing=absent,
        diff={"before": "", "after": "".join(f"{name}\n" for name in absent)} if absent else {},
    )


if __name__ == "__main__":
    main()
