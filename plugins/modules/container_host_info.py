#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells what a host has for containers, and which networks they may have."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_host_info
short_description: What a host has for containers, and which networks they may have
version_added: "0.1.0"
description:
  - Tells which version of a container engine is installed, which networks it has, and whether there are GPUs.
  - Chooses IPv4 networks for containers from ranges, without what the host has a route to, its routers and name
    servers, and the networks that the site uses. What was chosen before stays while it is good.
  - Networks that are given are checked in the same way instead.
  - Changes nothing.
author:
  - AI-102 inference maintainers (@ai102)
attributes:
  check_mode:
    description: It never changes anything.
    support: full
  diff_mode:
    description: It never changes anything.
    support: none
options:
  engine:
    description: The engine.
    type: str
    choices: [docker, containerd, podman]
    required: true
  path:
    description: Directory with the releases of the role, in which the former choice stands.
    type: path
    default: /etc/ai102/container_runtime
  pools:
    description:
      - Networks for containers, to be checked instead of chosen; each a C(base) and the C(size) of its networks.
    type: list
    elements: dict
    default: []
  candidates:
    description: Ranges to choose from, the preferred ones first.
    type: list
    elements: str
    default: []
  size:
    description: Prefix length of each network.
    type: int
    default: 24
  count:
    description: How many networks there have to be.
    type: int
    default: 256
  site_networks:
    description:
      - Networks and addresses that the site uses, whether the host has a route to them or not. An address stands for
        the /24 around it. Words, names and IPv6 are ignored.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Choose networks for containers
  ai102.inference.container_host_info:
    engine: docker
    candidates: [172.16.0.0/12]
    site_networks: [172.16.0.0/16, 10.20.0.11]
  register: host
"""

RETURN = r"""
version:
  description: Version of the engine that is installed, without what the distribution appends; null for none.
  returned: success
  type: str
  sample: 26.1.5
gpus:
  description: How many GPUs of NVIDIA are on the PCI bus.
  returned: success
  type: int
config_version:
  description: Which version of its grammar containerd's configuration says it is in; null where it does not.
  returned: success
  type: int
configured:
  description: The engine that the release in force is for; null for none.
  returned: success
  type: str
guard:
  description: Rules for nft that keep packets from outside away from these networks.
  returned: success
  type: str
default_subnet:
  description: The first of the networks; empty for none.
  returned: success
  type: str
pools:
  description: Networks for containers, each with C(base) and C(size).
  returned: success
  type: list
  elements: dict
  sample: [{base: 172.24.0.0/16, size: 24}]
networks:
  description: Networks that container engines have on the host now.
  returned: success
  type: list
  elements: str
collisions:
  description: Which of these collide with something, in words. They stay until they are made anew.
  returned: success
  type: list
  elements: str
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ai102.inference.plugins.module_utils._containers import ENGINES, guard, version_of
from ansible_collections.ai102.inference.plugins.module_utils._gpu import pci_gpus
from ansible_collections.ai102.inference.plugins.module_utils._pools import (
    Occupied,
    Pool,
    PoolError,
    choose,
    collisions,
    engine_networks,
    gateways,
    network_of,
    pool_of,
    resolvers,
    routed,
    site_networks,
)


def _routes(module: AnsibleModule) -> list[dict[str, Any]]:
    program = module.get_bin_path("ip", opt_dirs=["/usr/sbin", "/sbin"])
    if program is None:
        raise PoolError("there is no program ip on the host (package iproute2), so its routes are not known")
    _rc, output, _err = module.run_command([program, "-json", "-4", "route", "show", "table", "all"], check_rc=True)
    value: list[dict[str, Any]] = json.loads(output or "[]")
    return value


def _read_pools(path: Path, key: str) -> list[Pool]:
    """Pools in a JSON file; none where the file has none or cannot be read."""
    try:
        value = json.loads(path.read_text()).get(key) or []
        return [pool_of(item) for item in value]
    except (OSError, ValueError, AttributeError, PoolError):
        return []


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _config_version() -> int | None:
    found = re.search(r"^version\s*=\s*(\d+)", _text(ENGINES["containerd"].config), re.MULTILINE)
    return int(found[1]) if found else None


def _configured(path: str) -> str | None:
    try:
        return str(json.loads(_text(Path(path, "current", "runtime.json")))["engine"])
    except (ValueError, KeyError, TypeError):
        return None


def _pools(module: AnsibleModule, occupied: list[Occupied]) -> list[Pool]:
    params = module.params
    if params["pools"]:
        pools = [pool_of(item) for item in params["pools"]]
        problems = collisions(pools, occupied)
        if problems:
            raise PoolError(f"the address pools for containers cannot be used: {'; '.join(problems)}")
        return pools
    ours = _read_pools(Path(params["path"], "current", "runtime.json"), "pools")
    if params["engine"] == "docker":
        # What the administrator has chosen for Docker stays, if it is in nobody's way.
        theirs = _read_pools(Path(ENGINES["docker"].config), "default-address-pools")
        if theirs and theirs != ours and not collisions(theirs, occupied):
            return theirs
    candidates = [network_of(text, "range for containers") for text in params["candidates"]]
    return choose(candidates, occupied, params["size"], params["count"], ours)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "engine": {"type": "str", "choices": ["docker", "containerd", "podman"], "required": True},
            "path": {"type": "path", "default": "/etc/ai102/container_runtime"},
            "pools": {"type": "list", "elements": "dict", "default": []},
            "candidates": {"type": "list", "elements": "str", "default": []},
            "size": {"type": "int", "default": 24},
            "count": {"type": "int", "default": 256},
            "site_networks": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    engine = ENGINES[module.params["engine"]]
    version = None
    if shutil.which(engine.version[0]) is not None:
        _rc, output, _err = module.run_command(list(engine.version))
        version = version_of(output)
    try:
        routes = _routes(module)
        occupied = [
            *routed(routes),
            *gateways(routes),
            *resolvers(_text("/etc/resolv.conf")),
            *site_networks(module.params["site_networks"]),
        ]
        pools = _pools(module, occupied) if module.params["candidates"] or module.params["pools"] else []
    except PoolError as error:
        module.fail_json(msg=str(error))
    networks = engine_networks(routes)
    # A bridge that was there before has its network still.
    bridges = [network for device, network in networks if device in ("docker0", "podman0")]
    outside = [network for network in bridges if not any(network.subnet_of(pool.base) for pool in pools)]
    guarded = [str(network) for network in [*(pool.base for pool in pools), *outside]] if pools else []
    module.exit_json(
        changed=False,
        version=version,
        gpus=len(pci_gpus()),
        config_version=_config_version(),
        configured=_configured(module.params["path"]),
        guard=guard(guarded),
        default_subnet=str(next(pools[0].base.subnets(new_prefix=pools[0].size))) if pools else "",
        pools=[pool.as_dict() for pool in pools],
        networks=[str(network) for _device, network in networks],
        collisions=[
            f"{device}: {problem}"
            for device, network in networks
            for problem in collisions([Pool(network, network.prefixlen)], occupied)
        ],
    )


if __name__ == "__main__":
    main()
