# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules of preflight: what is asked, what is found, what follows."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ai102.inference.plugins.module_utils import _preflight as pf
from ansible_collections.ai102.inference.plugins.module_utils._verdict import Check

PRODUCTION = {
    "cpu_cores": {"minimum": 8, "recommended": 16},
    "memory_gb": {"minimum": 32, "recommended": 64},
    "disk_gb": {"minimum": 512, "recommended": 1000},
    "disk_kind": {"minimum": "any", "recommended": "nvme"},
}

FACTS: dict[str, Any] = {
    "os": {"id": "debian", "version": "12"},
    "architecture": "x86_64",
    "kernel": "6.1.0-37-amd64",
    "python": "3.11.2",
    "systemd": True,
    "virtualisation": {"kind": "", "container": False},
    "cpu_cores": 32,
    "memory_bytes": int(125.6 * pf.GIB),
    "disk": {"path": "/var/lib", "size_bytes": 1920 * pf.GB, "kind": "nvme", "names": ["nvme0n1"]},
    "paths": [
        {
            "path": "/var/lib/ai102",
            "free_gb": 20.0,
            "mount": "/",
            "size_bytes": 1900 * pf.GB,
            "free_bytes": 1500 * pf.GB,
            "inodes": 10**8,
            "free_inodes": 10**8,
            "read_only": False,
        }
    ],
    "ports": {},
    "markers": [],
    "gpus": [{"pci_id": "0000:1b:00.0"}],
    "clock": {"time": 1000.4, "synchronised": True},
    "resolve": [{"name": "gpu1", "addresses": ["10.0.0.1"], "error": ""}],
    "reach": [{"host": "10.0.0.1", "port": 8443, "state": "refused", "error": ""}],
    "sources": [{"label": "http://deb.example/debian bookworm", "state": "ok", "answer": "HTTP 200"}],
}


def judge(changes: dict[str, Any] | None = None, **arguments: Any) -> dict[str, Check]:
    facts = copy.deepcopy(FACTS) | (changes or {})
    settings: dict[str, Any] = {
        "host": "h",
        "profile": pf.Profile.from_dict("production", PRODUCTION),
        "supported_os": {"Debian": ["12", 13], "ubuntu": ["22.04"]},
        "architectures": ["x86_64"],
        "kernel": "5.10",
        "python": "3.10",
        "ports": [{"port": 443, "units": []}],
        "own_units": ["ai102-*"],
        "gpus": 1,
        "control_time": 1000.0,
        "max_skew": 30,
        "severity": {},
    }
    checks = pf.evaluate(facts, **(settings | arguments))
    assert len({check.check for check in checks}) == len(checks)
    return {check.check: check for check in checks}


def statuses(checks: dict[str, Check]) -> set[str]:
    return {check.status for check in checks.values()}


def test_a_good_host_passes_everything() -> None:
    assert statuses(judge()) == {"pass"}


@pytest.mark.parametrize(("cores", "status"), [(16, "pass"), (15, "warn"), (8, "warn"), (7, "fail")], ids=str)
def test_cpu(cores: int, status: str) -> None:
    check = judge({"cpu_cores": cores})["cpu"]
    assert check.status == status
    assert check.actual == f"{cores} cores"
    assert check.expected == "at least 8 cores, recommended 16 cores"
    assert bool(check.hint) == (status != "pass")


@pytest.mark.parametrize(
    ("gib", "status"),
    [
        (62.7, "pass"),  # what the kernel of a machine sold with 64 GB shows
        (60.5, "pass"),
        (50, "warn"),
        (31.2, "warn"),  # sold with 32 GB
        (28.4, "warn"),  # 32 GB less a crash kernel and a share of the graphics
        (27, "fail"),
        (15.6, "fail"),
    ],
)
def test_memory_is_compared_as_it_is_sold(gib: float, status: str) -> None:
    assert judge({"memory_bytes": int(gib * pf.GIB)})["memory"].status == status


def test_sixteen_gb_machine_is_enough_for_development() -> None:
    profile = pf.Profile.from_dict("development", {"memory_gb": 16})
    assert judge({"memory_bytes": int(15.6 * pf.GIB)}, profile=profile)["memory"].status == "pass"
    assert judge({"memory_bytes": int(13.9 * pf.GIB)}, profile=profile)["memory"].status == "fail"


def test_memory_names_both_units_in_its_hint() -> None:
    assert "16.75 GB (15.6 GiB)" in judge({"memory_bytes": int(15.6 * pf.GIB)})["memory"].hint


@pytest.mark.parametrize(
    ("gigabytes", "status"), [(1000.2, "pass"), (960.2, "pass"), (800, "warn"), (500.1, "warn"), (480.1, "fail")]
)
def test_disk_size(gigabytes: float, status: str) -> None:
    disk = {**FACTS["disk"], "size_bytes": int(gigabytes * pf.GB)}
    assert judge({"disk": disk})["disk.size"].status == status


@pytest.mark.parametrize(
    ("kind", "minimum", "recommended", "status"),
    [
        ("nvme", "any", "nvme", "pass"),
        ("ssd", "any", "nvme", "warn"),
        ("hdd", "ssd", "nvme", "fail"),
        ("hdd", "sata", "sata", "pass"),
        ("virtual", "any", "nvme", "warn"),
        ("virtual", "ssd", "ssd", "warn"),  # it cannot be told, so it cannot fail
        ("unknown", "any", "any", "pass"),
    ],
)
def test_disk_kind(kind: str, minimum: str, recommended: str, status: str) -> None:
    profile = pf.Profile.from_dict("p", {"disk_kind": {"minimum": minimum, "recommended": recommended}})
    assert judge({"disk": {**FACTS["disk"], "kind": kind}}, profile=profile)["disk.kind"].status == status


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"free_bytes": 19 * pf.GB}, "fail", "19 GB of"),
        ({"free_inodes": 12}, "fail", "12 inodes"),
        ({"free_inodes": 0, "inodes": 0}, "pass", "1.5e+03 GB"),  # btrfs counts no inodes
        ({"read_only": True}, "fail", "read-only"),
    ],
)
def test_free_space(change: dict[str, Any], status: str, word: str) -> None:
    check = judge({"paths": [FACTS["paths"][0] | change]})["disk.free./var/lib/ai102"]
    assert check.status == status
    assert word in check.actual


def test_release_architecture_kernel_python_init() -> None:
    checks = judge(
        {
            "os": {"id": "debian", "version": "11"},
            "architecture": "riscv64",
            "kernel": "5.4.0-150",
            "python": "3.9.2",
            "systemd": False,
        }
    )
    failed = {name for name, check in checks.items() if check.status == "fail"}
    assert failed == {"os", "architecture", "kernel", "python", "init"}
    assert checks["os"].actual == "debian 11"
    assert judge({"kernel": "5.10.0"})["kernel"].status == "pass"
    assert judge({"os": {"id": "debian", "version": "13"}})["os"].status == "pass"


def test_container_warns_unless_the_profile_is_for_containers() -> None:
    inside = {"virtualisation": {"kind": "docker", "container": True}}
    assert judge(inside)["virtualisation"].status == "warn"
    profile = pf.Profile.from_dict("container", {"containers": True})
    assert judge(inside, profile=profile)["virtualisation"].status == "pass"
    assert judge({"virtualisation": {"kind": "kvm", "container": False}})["virtualisation"].status == "pass"


def test_clock() -> None:
    assert judge({"clock": {"time": 1000.0, "synchronised": False}})["clock.synchronised"].status == "warn"
    assert judge({"clock": {"time": 1000.0, "synchronised": None}})["clock.synchronised"].actual == "unknown"
    slow = judge({"clock": {"time": 900.0, "synchronised": True}})["clock.skew"]
    assert (slow.status, slow.actual) == ("fail", "-100.0 s")
    assert "clock.skew" not in judge(control_time=None)


@pytest.mark.parametrize(
    ("unit", "more", "status"),
    [
        ("ai102-gateway.service", [], "pass"),
        ("nginx.service", [], "fail"),
        ("nginx.service", ["nginx.service"], "pass"),
        ("", [], "fail"),
    ],
)
def test_ports(unit: str, more: list[str], status: str) -> None:
    held = {"443": [{"pid": 7, "process": "nginx", "unit": unit}]}
    check = judge({"ports": held}, ports=[{"port": 443, "units": more}])["port.443"]
    assert check.status == status
    assert f"held by nginx ({unit or 'no unit'})" in check.actual


def test_a_unit_that_may_be_anybodys_needs_our_configuration() -> None:
    held = {"443": [{"pid": 7, "process": "nginx", "unit": "nginx.service"}]}
    ports = [{"port": 443, "units": ["nginx.service"], "marker": "/etc/ai102/gateway/current"}]
    assert judge({"ports": held}, ports=ports)["port.443"].status == "fail"
    ours = {"ports": held, "markers": ["/etc/ai102/gateway/current"]}
    assert judge(ours, ports=ports)["port.443"].status == "pass"


def test_paths_are_texts_or_dictionaries() -> None:
    assert pf.wanted_paths(["/a", {"path": "/b", "free_gb": 3}, {"path": "/c"}], 20) == [
        ("/a", 20),
        ("/b", 3.0),
        ("/c", 20),
    ]
    for wrong in (3, {"free_gb": 3}, {"path": "/a", "free": 3}, {"path": "/a", "free_gb": "much"}):
        with pytest.raises(ValueError, match="path|free"):
            pf.wanted_paths([wrong], 20)


def test_free_space_of_a_path_that_is_not_there_yet(tmp_path: Path) -> None:
    entry = pf.free_space(tmp_path / "a" / "b", 1)
    assert entry["path"] == f"{tmp_path}/a/b"
    assert 0 < entry["free_bytes"] <= entry["size_bytes"]


def test_port_held_by_us_and_by_a_stranger_fails() -> None:
    held = {
        "443": [
            {"pid": 7, "process": "nginx", "unit": "ai102-gateway.service"},
            {"pid": 8, "process": "apache2", "unit": "apache2.service"},
        ]
    }
    assert judge({"ports": held})["port.443"].status == "fail"


def test_gpus() -> None:
    assert judge(gpus=2)["gpu"].status == "fail"
    assert judge({"gpus": []}, gpus=1)["gpu"].actual == "none on the PCI bus"
    assert judge({"gpus": []}, gpus=0)["gpu"].status == "skip"


def test_network() -> None:
    checks = judge(
        {
            "resolve": [{"name": "gpu1", "addresses": [], "error": "Name or service not known"}],
            "reach": [{"host": "10.0.0.1", "port": 8443, "state": "failed", "error": "no answer within 4 s"}],
            "sources": [
                {"label": "a", "state": "failed", "answer": "HTTP 404 Not Found"},
                {"label": "b", "state": "unsure", "answer": "HTTP 401"},
            ],
        }
    )
    assert {name: check.status for name, check in checks.items() if check.status != "pass"} == {
        "resolve.gpu1": "fail",
        "reach.10.0.0.1:8443": "fail",
        "source.a": "fail",
        "source.b": "warn",
    }
    assert checks["reach.10.0.0.1:8443"].actual == "no answer within 4 s"
    assert judge({"sources": []})["source"].status == "fail"
    assert not [name for name in judge({"sources": None}) if name.startswith("source")]


def test_severity_by_name_and_by_family() -> None:
    short = {
        "cpu_cores": 1,
        "memory_bytes": 40 * pf.GB,
        "ports": {"443": [{"pid": 1, "process": "x", "unit": "x.service"}]},
    }
    checks = judge(
        short, severity={"cpu": "warn", "memory": "fail", "port": "skip", "clock": "skip", "clock.skew": "fail"}
    )
    assert checks["cpu"].status == "warn"
    assert checks["memory"].status == "fail"
    assert checks["port.443"].status == "skip"
    assert checks["clock.synchronised"].status == "skip"
    assert checks["clock.skew"].status == "pass"
    assert judge(short, severity={"port": "skip", "port.443": "warn"})["port.443"].status == "warn"


@pytest.mark.parametrize(
    ("severity", "message"),
    [({"cpu": "ignore"}, "must be one of fail, warn, skip"), ({"memroy": "warn"}, "did you mean 'memory'")],
)
def test_wrong_severity_is_refused(severity: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pf.check_severity(severity)


def test_severity_of_one_port_is_known() -> None:
    assert pf.check_severity({"port.443": "warn", "control.library.onnx": "skip"})


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"cpu": 4}, "no key 'cpu'"),
        ({"cpu_core": 4}, "did you mean 'cpu_cores'"),
        ({"cpu_cores": {"min": 4}}, "no key 'min'"),
        ({"cpu_cores": {"minimum": 8, "recommended": 4}}, "less than minimum"),
        ({"cpu_cores": "many"}, "must be a number"),
        ({"memory_gb": {"minimum": "x"}}, "could not convert"),
        ({"disk_kind": "floppy"}, "none of any, hdd"),
    ],
)
def test_wrong_profile_is_refused(profile: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pf.Profile.from_dict("mine", profile)


def test_choosing_a_profile() -> None:
    assert pf.Profile.choose("production", {"production": PRODUCTION}).cpu_cores == pf.Range(8, 16)
    with pytest.raises(ValueError, match="did you mean 'production'"):
        pf.Profile.choose("prodution", {"production": PRODUCTION})
    with pytest.raises(ValueError, match="there are production"):
        pf.Profile.choose("edge", {"production": PRODUCTION})
    with pytest.raises(ValueError, match="must be a dictionary"):
        pf.Profile.choose("edge", {"edge": 4})


def test_control_node() -> None:
    directory = FACTS["paths"][0] | {"path": "/root/.cache", "free_bytes": 10**8, "free_gb": 1.0}
    checks = pf.evaluate_control_node(
        {
            "ansible_core": "2.18.1",
            "python": "3.11.2",
            "collections": {"community.crypto": "2.20.0", "ansible.posix": None, "community.general": "11.4.0"},
            "libraries": {"cryptography": "42.0", "onnx": None},
            "directories": [directory],
        },
        {
            "ansible_core": "2.19",
            "python": "3.11",
            "collections": {"community.crypto": "2.26.0", "ansible.posix": "1.6.0", "community.general": "10.0.0"},
            "libraries": ["cryptography", "onnx"],
        },
        {},
    )
    assert {check.check for check in checks if check.status == "fail"} == {
        "control.ansible_core",
        "control.collection.community.crypto",
        "control.collection.ansible.posix",
        "control.library.onnx",
        "control.disk.free./root/.cache",
    }
    assert {check.host for check in checks} == {"control node"}


# ----------------------------------------------------------------------------------------------------------- parsers


def test_os_release() -> None:
    assert pf.parse_os_release('# c\nID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian 12"\n')["VERSION_ID"] == "12"


def test_meminfo() -> None:
    assert pf.parse_meminfo("MemTotal:       16334756 kB\nMemFree: 1 kB\n") == 16334756 * 1024
    assert pf.parse_meminfo("") == 0


def test_listeners() -> None:
    text = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 00000000:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0\n"
        "   1: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4243 1 0 100 0\n"
    )
    assert pf.parse_listeners(text) == [(443, 4242)]
    assert pf.parse_owners(text) == {4242: 0}
    assert pf.parse_owners(text.replace("     0        0 4242", "   999        0 4242")) == {4242: 999}
    six = text.replace("00000000:01BB", "00000000000000000000000000000000:2393")
    assert pf.parse_listeners(six) == [(9107, 4242)]


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/nginx.service\n", "nginx.service"),
        ("0::/system.slice/ai102.slice/ai102-inference.service/worker\n", "ai102-inference.service"),
        ("12:pids:/x\n1:name=systemd:/system.slice/ssh.service\n", "ssh.service"),
        ("0::/user.slice/user-0.slice/session-3.scope\n", "session-3.scope"),
        ("0::/init.scope\n", "init.scope"),
        ("0::/\n", ""),
    ],
)
def test_unit_of_cgroup(text: str, unit: str) -> None:
    assert pf.unit_of_cgroup(text) == unit


def test_list_sockets() -> None:
    text = (
        "/run/dbus/system_bus_socket dbus.socket dbus.service\n"
        "0.0.0.0:8443                ai102-inference.socket ai102-inference.service\n"
        "[::]:18443                  other.socket           other.service\n"
    )
    assert pf.parse_list_sockets(text, 8443) == "ai102-inference.socket"
    assert pf.parse_list_sockets(text, 443) == ""


def test_one_line_sources() -> None:
    text = (
        "# deb http://old/ x main\n"
        "deb http://deb.debian.org/debian bookworm main contrib\n"
        "deb-src http://deb.debian.org/debian bookworm main\n"
        "deb [arch=amd64 signed-by=/k.gpg] https://me:secret@repo.example/debian ./\n"
    )
    first, second = pf.parse_apt_list(text)
    assert first.release_urls == [
        "http://deb.debian.org/debian/dists/bookworm/InRelease",
        "http://deb.debian.org/debian/dists/bookworm/Release",
    ]
    assert second.release_urls[0] == "https://me:secret@repo.example/debian/InRelease"
    assert second.label == "https://repo.example/debian ./"


def test_stanza_sources() -> None:
    text = (
        "# comment\nTypes: deb deb-src\nURIs: http://a/debian\n http://b/debian\nSuites: trixie trixie-updates\n"
        "Components: main\nSigned-By:\n -----BEGIN\n  x: y\n\n\n"
        "Types: deb\nURIs: http://off\nSuites: x\nEnabled: no\n\nTypes: deb-src\nURIs: http://src\nSuites: x\n"
    )
    assert [source.label for source in pf.parse_apt_deb822(text)] == [
        "http://a/debian trixie",
        "http://a/debian trixie-updates",
        "http://b/debian trixie",
        "http://b/debian trixie-updates",
    ]


def test_apt_proxies() -> None:
    text = (
        'APT::Architecture "amd64";\nAcquire::http::Proxy "http://proxy:3128";\n'
        'Acquire::http::Proxy::Mirror.example "DIRECT";\nAcquire::https::Proxy "";\n'
    )
    assert pf.parse_apt_proxies(text) == {"http": "http://proxy:3128", "http::mirror.example": "DIRECT", "https": ""}


def device(root: Path, name: str, sectors: int, **files: str) -> Path:
    path = root / name
    path.mkdir(parents=True)
    (path / "size").write_text(f"{sectors}\n")
    for file, text in files.items():
        target = path / file.replace("__", "/")
        target.parent.mkdir(exist_ok=True, parents=True)
        target.write_text(text)
    return path


TB = 2 * 10**9  # in sectors of 512 bytes, about


def test_partition_of_an_nvme_disk(tmp_path: Path) -> None:
    device(tmp_path, "nvme0n1", TB, queue__rotational="0\n")
    part = device(tmp_path / "nvme0n1", "nvme0n1p2", TB // 4, partition="2\n")
    assert pf.describe_device(part) == pf.Disk(TB * 512, "nvme", ("nvme0n1",))


def test_lvm_on_two_disks_counts_both_and_the_slower_kind(tmp_path: Path) -> None:
    device(tmp_path, "nvme0n1", TB, queue__rotational="0\n")
    device(tmp_path, "sda", TB, queue__rotational="1\n", device__vendor="ATA     \n")
    volume = device(tmp_path, "dm-0", TB // 10)
    (volume / "slaves").mkdir()
    for name in ("nvme0n1", "sda"):
        (volume / "slaves" / name).symlink_to(tmp_path / name)
    assert pf.describe_device(volume) == pf.Disk(2 * TB * 512, "hdd", ("nvme0n1", "sda"))


def test_a_mirror_counts_once(tmp_path: Path) -> None:
    mirror = device(tmp_path, "md0", TB)
    (mirror / "slaves").mkdir()
    for name in ("sda", "sdb"):
        device(tmp_path, name, TB, queue__rotational="0\n", device__vendor="ATA\n")
        (mirror / "slaves" / name).symlink_to(tmp_path / name)
    assert pf.describe_device(mirror) == pf.Disk(TB * 512, "ssd", ("sda", "sdb"))


@pytest.mark.parametrize(("name", "vendor"), [("vda", ""), ("sda", "QEMU\n"), ("sda", "VMware  \n"), ("xvda", "")])
def test_virtual_disks(tmp_path: Path, name: str, vendor: str) -> None:
    disk = pf.describe_device(device(tmp_path, name, TB, queue__rotational="1\n", device__vendor=vendor))
    assert disk is not None
    assert disk.kind == "virtual"


def test_no_device(tmp_path: Path) -> None:
    assert pf.describe_device(tmp_path / "0:42") is None


def test_source_of_mount() -> None:
    text = "22 1 0:20 / / rw,relatime shared:1 - btrfs /dev/sda2 rw,subvol=/\n23 22 0:21 / /run rw - tmpfs tmpfs rw\n"
    assert pf.source_of_mount(text, "0:20") == "/dev/sda2"
    assert pf.source_of_mount(text, "0:21") == ""
