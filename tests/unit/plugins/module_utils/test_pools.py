# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Networks for containers, and what they must stay clear of."""

from __future__ import annotations

import ipaddress
import json
import random

import pytest
from ansible_collections.ai102.inference.plugins.module_utils import _pools
from ansible_collections.ai102.inference.plugins.module_utils._pools import Occupied, Pool, PoolError, choose

RANGES = [ipaddress.IPv4Network("172.24.0.0/13"), ipaddress.IPv4Network("192.168.0.0/16")]
# As `ip -json -4 route show table all` says it on a host with a VPN and Docker.
ROUTES = json.loads("""[
  {"dst": "default", "gateway": "10.20.0.1", "dev": "eth0", "flags": []},
  {"dst": "10.20.0.0/24", "dev": "eth0", "protocol": "kernel", "scope": "link", "prefsrc": "10.20.0.11"},
  {"dst": "172.24.8.0/21", "gateway": "10.20.0.9", "dev": "tun0", "table": "51820"},
  {"dst": "172.17.0.0/16", "dev": "docker0", "protocol": "kernel", "scope": "link", "flags": ["linkdown"]},
  {"dst": "172.18.0.0/16", "dev": "br-0123456789ab", "protocol": "kernel", "scope": "link"},
  {"dst": "192.168.7.0/24", "dev": "br-lan", "protocol": "kernel", "scope": "link"},
  {"type": "local", "dst": "10.20.0.11", "dev": "eth0", "table": "local"},
  {"type": "broadcast", "dst": "10.20.0.255", "dev": "eth0", "table": "local"},
  {"type": "local", "dst": "127.0.0.0/8", "dev": "lo", "table": "local"},
  {"type": "blackhole", "dst": "198.18.0.0/15"},
  {"dst": "fd00::/64", "dev": "eth0"}
]""")


def occupied(*networks: str) -> list[Occupied]:
    return [Occupied(ipaddress.IPv4Network(network), f"test {network}") for network in networks]


def bases(pools: list[Pool]) -> list[str]:
    return [str(pool.base) for pool in pools]


def test_routes_of_all_tables_count_but_not_those_of_container_engines() -> None:
    assert [str(entry.network) for entry in _pools.routed(ROUTES)] == [
        "10.20.0.0/24",
        "172.24.8.0/21",
        "192.168.7.0/24",
        "10.20.0.11/32",
        "198.18.0.0/15",
    ]
    assert _pools.routed(ROUTES)[1].reason == "the route 172.24.8.0/21 by tun0"


def test_networks_of_container_engines_are_known() -> None:
    assert [(device, str(network)) for device, network in _pools.engine_networks(ROUTES)] == [
        ("br-0123456789ab", "172.18.0.0/16"),
        ("docker0", "172.17.0.0/16"),
    ]


def test_routers_and_name_servers_count() -> None:
    assert [str(entry.network) for entry in _pools.gateways(ROUTES)] == ["10.20.0.1/32", "10.20.0.9/32"]
    text = "# x\nnameserver 172.25.0.53\nnameserver 127.0.0.53\nnameserver fd00::1\nsearch a\n"
    assert [entry.reason for entry in _pools.resolvers(text)] == ["the name server 172.25.0.53"]


def test_the_site_s_networks_and_the_neighbours_of_its_hosts() -> None:
    found = _pools.site_networks(["10.20.1.21", "172.16.0.0/16", "any", "gpu1", "fd00::/8", "0.0.0.0/0"])
    assert [str(entry.network) for entry in found] == ["10.20.1.0/24", "172.16.0.0/16"]


def test_the_first_block_that_is_free_is_chosen() -> None:
    assert bases(choose(RANGES, [], 24, 256)) == ["172.24.0.0/16"]
    assert bases(choose(RANGES, _pools.routed(ROUTES), 24, 256)) == ["172.25.0.0/16"]
    assert bases(choose(RANGES, occupied("172.24.0.0/13"), 24, 256)) == ["192.168.0.0/16"]


def test_what_was_chosen_stays_while_it_is_good() -> None:
    current = [Pool(ipaddress.IPv4Network("172.26.0.0/16"), 24)]
    assert choose(RANGES, occupied("172.24.0.0/16"), 24, 256, current) == current
    assert bases(choose(RANGES, occupied("172.26.9.0/24"), 24, 256, current)) == ["172.24.0.0/16"]
    assert bases(choose(RANGES, [], 25, 256, current)) == ["172.24.0.0/17"]
    assert bases(choose(RANGES, [], 24, 300, current)) == ["172.24.0.0/15"]
    assert bases(choose(RANGES[1:], [], 24, 256, current)) == ["192.168.0.0/16"]


def test_several_blocks_where_there_is_no_room_for_one() -> None:
    ranges = [ipaddress.IPv4Network("192.168.0.0/16")]
    assert bases(choose(ranges, occupied("192.168.4.0/24"), 24, 256 // 2)) == ["192.168.128.0/17"]
    found = choose(ranges, occupied("192.168.4.0/24", "192.168.192.0/24"), 24, 128)
    assert bases(found) == ["192.168.64.0/18", "192.168.128.0/18"]


def test_no_room_is_said_with_reasons() -> None:
    with pytest.raises(PoolError, match=r"no room for 256 networks .* in 192.168.0.0/16: test 192.168.4.0/24"):
        choose([ipaddress.IPv4Network("192.168.0.0/16")], occupied("192.168.4.0/24"), 24, 256)


def test_given_pools_are_compared_with_everything_and_each_other() -> None:
    pools = [_pools.pool_of({"base": base, "size": 24}) for base in ("172.24.0.0/16", "172.24.128.0/17")]
    assert _pools.collisions(pools, _pools.routed(ROUTES)) == [
        "172.24.0.0/16 collides with the route 172.24.8.0/21 by tun0",
        "172.24.0.0/16 and 172.24.128.0/17 overlap",
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"base": "gpu1", "size": 24}, "not an IPv4 network"),
        ({"base": "fd00::/8", "size": 64}, "not an IPv4 network"),
        ({"base": "172.24.0.0/16"}, "needs a size"),
        ({"base": "172.24.0.0/16", "size": 8}, "between 16 and 29"),
        ({"base": "172.24.0.0/16", "size": 31}, "between 16 and 29"),
    ],
)
def test_pools_that_are_none_are_refused(value: dict[str, object], message: str) -> None:
    with pytest.raises(PoolError, match=message):
        _pools.pool_of(value)


@pytest.mark.parametrize("seed", range(100))
def test_a_choice_never_collides_and_has_room(seed: int) -> None:
    source = random.Random(seed)
    taken = occupied(
        *(
            str(ipaddress.IPv4Network((source.choice((0xAC180000, 0xC0A80000)) + source.getrandbits(19), size), False))
            for size in source.choices(range(14, 30), k=source.randrange(12))
        )
    )
    size, count = source.choice([(24, 256), (24, 100), (26, 64), (20, 8), (24, 1)])
    try:
        pools = choose(RANGES, taken, size, count)
    except PoolError:
        return
    assert not _pools.collisions(pools, taken)
    assert sum(pool.count for pool in pools) >= count
    assert all(any(pool.base.subnet_of(entry) for entry in RANGES) for pool in pools)
    assert choose(RANGES, taken, size, count, pools) == pools
