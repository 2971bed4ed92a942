# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Metrics of GPUs as the driver's library would answer, and how they are served."""

# ruff: noqa: N802, N815, ARG002  # the stand-in has the names and parameters of the library

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from ai102_server.cli import main
from ai102_server.cli.gpu_exporter import Exporter, TlsFiles
from ai102_server.errors import ServerError
from ai102_server.telemetry.nvml import GpuCollector
from toolkit import CLIENT_AUTH, SERVER_AUTH, Authority

MIB = 1024 * 1024


class UnsupportedError(Exception):
    """What the library raises for a figure that a GPU does not have."""


class Nvml:
    """Answers as NVIDIA's library gives them: an H100, and an A100 that is divided in two."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU, NVML_FI_DEV_MEMORY_TEMP = 1, 2, 0, 82
    NVML_MEMORY_ERROR_TYPE_CORRECTED, NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 0, 1
    NVML_VOLATILE_ECC, NVML_AGGREGATE_ECC = 0, 1
    nvmlEventTypeXidCriticalError = 8

    def __init__(self) -> None:
        self.lost: set[int] = set()
        self.broken = False
        self.faults: list[tuple[int, int]] = []
        self.started = 0

    def nvmlInit(self) -> None:
        self.started += 1

    def nvmlShutdown(self) -> None:
        self.started -= 1

    def nvmlDeviceGetCount(self) -> int:
        if self.broken:
            raise UnsupportedError("Driver/library version mismatch")
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index in self.lost:
            raise UnsupportedError("GPU is lost")
        return index

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"580.95.05"

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle: int) -> str:
        return {0: "NVIDIA H100 80GB HBM3", 1: "NVIDIA A100-SXM4-40GB"}.get(handle, "NVIDIA A100-SXM4-40GB MIG 3g.20gb")

    def nvmlDeviceGetPciInfo(self, handle: int) -> Any:
        return SimpleNamespace(busId=f"00000000:1{handle}:00.0".encode())

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:
        return 1980 if kind == self.NVML_CLOCK_SM else 2619

    def nvmlDeviceGetTemperature(self, handle: int, kind: int) -> int:
        return 41

    def nvmlDeviceGetFieldValues(self, handle: int, fields: list[int]) -> list[Any]:
        return [SimpleNamespace(nvmlReturn=3 if handle else 0, value=SimpleNamespace(uiVal=48))]

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return 71_500

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:
        return 700_000

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        return 123_456_789

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        if handle:
            raise UnsupportedError("not while the GPU is divided")
        return SimpleNamespace(gpu=37, memory=12)

    def nvmlDeviceGetEncoderUtilization(self, handle: int) -> list[int]:
        return [0, 167_000]

    nvmlDeviceGetDecoderUtilization = nvmlDeviceGetEncoderUtilization

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        total = {0: 81559, 1: 40960}.get(handle, 19968)
        return SimpleNamespace(used=1024 * MIB, free=(total - 1024) * MIB, total=total * MIB)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:
        return 4

    def nvmlDeviceGetTotalEccErrors(self, handle: int, kind: int, span: int) -> int:
        return 3 if kind == self.NVML_MEMORY_ERROR_TYPE_UNCORRECTED else 10 + span

    def nvmlDeviceGetRemappedRows(self, handle: int) -> tuple[int, int, int, int]:
        return (1, 2, 1, 0)

    def nvmlDeviceGetPcieReplayCounter(self, handle: int) -> int:
        return 5

    def nvmlDeviceGetMigMode(self, handle: int) -> list[int]:
        return [int(handle == 1), int(handle == 1)]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: int) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: int, position: int) -> int:
        if position > 1:
            raise UnsupportedError("never made")
        return 100 + position

    def nvmlDeviceGetGpuInstanceId(self, handle: int) -> int:
        return handle - 99

    def nvmlEventSetCreate(self) -> object:
        return self

    def nvmlDeviceRegisterEvents(self, handle: int, kinds: int, events: object) -> None:
        assert kinds == self.nvmlEventTypeXidCriticalError

    def nvmlEventSetWait_v2(self, events: object, milliseconds: int) -> Any:
        if self.faults:
            device, number = self.faults.pop()
            return SimpleNamespace(device=device, eventData=number)
        time.sleep(0.01)
        raise UnsupportedError("Timeout")


def scrape(collector: GpuCollector) -> dict[str, float]:
    """Names with the labels that matter here → values."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    found = {}
    for line in generate_latest(registry).decode().splitlines():
        match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if match:
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
            short = ",".join(labels[name] for name in ("gpu", "GPU_I_PROFILE", "GPU_I_ID", "reason") if name in labels)
            found[f"{match[1]}[{short}]"] = float(match[3])
    return found


def test_figures_of_a_gpu_have_the_names_of_dcgm() -> None:
    found = scrape(GpuCollector(Nvml))
    assert found["ai102_gpus[]"] == 2
    assert found["ai102_gpu_driver_up[]"] == 1
    assert {name: found[f"DCGM_FI_DEV_{name}[0]"] for name in (
        "SM_CLOCK", "MEM_CLOCK", "GPU_TEMP", "MEMORY_TEMP", "POWER_USAGE", "POWER_MGMT_LIMIT", "GPU_UTIL",
        "MEM_COPY_UTIL", "FB_USED", "FB_FREE", "FB_TOTAL", "CLOCK_THROTTLE_REASONS", "ECC_SBE_VOL_TOTAL",
        "ECC_DBE_VOL_TOTAL", "ECC_SBE_AGG_TOTAL", "UNCORRECTABLE_REMAPPED_ROWS", "ROW_REMAP_PENDING",
        "ROW_REMAP_FAILURE", "PCIE_REPLAY_COUNTER", "XID_ERRORS", "TOTAL_ENERGY_CONSUMPTION",
    )} == {
        "SM_CLOCK": 1980, "MEM_CLOCK": 2619, "GPU_TEMP": 41, "MEMORY_TEMP": 48, "POWER_USAGE": 71.5,
        "POWER_MGMT_LIMIT": 700, "GPU_UTIL": 37, "MEM_COPY_UTIL": 12, "FB_USED": 1024, "FB_FREE": 80535,
        "FB_TOTAL": 81559, "CLOCK_THROTTLE_REASONS": 4, "ECC_SBE_VOL_TOTAL": 10, "ECC_DBE_VOL_TOTAL": 3,
        "ECC_SBE_AGG_TOTAL": 11, "UNCORRECTABLE_REMAPPED_ROWS": 2, "ROW_REMAP_PENDING": 1, "ROW_REMAP_FAILURE": 0,
        "PCIE_REPLAY_COUNTER": 5, "XID_ERRORS": 0, "TOTAL_ENERGY_CONSUMPTION": 123_456_789,
    }  # fmt: skip


def test_a_figure_that_a_gpu_does_not_have_is_left_out() -> None:
    found = scrape(GpuCollector(Nvml))
    assert "DCGM_FI_DEV_MEMORY_TEMP[1]" not in found
    assert "DCGM_FI_DEV_GPU_UTIL[1]" not in found
    assert found["DCGM_FI_DEV_GPU_TEMP[1]"] == 41


def test_a_divided_gpu_tells_its_memory_part_by_part() -> None:
    found = scrape(GpuCollector(Nvml))
    assert {name: value for name, value in found.items() if name.startswith("DCGM_FI_DEV_FB_TOTAL")} == {
        "DCGM_FI_DEV_FB_TOTAL[0]": 81559,
        "DCGM_FI_DEV_FB_TOTAL[1,3g.20gb,1]": 19968,
        "DCGM_FI_DEV_FB_TOTAL[1,3g.20gb,2]": 19968,
    }


def test_labels_are_those_of_dcgm() -> None:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(GpuCollector(Nvml))
    text = generate_latest(registry).decode()
    line = next(line for line in text.splitlines() if line.startswith("DCGM_FI_DEV_GPU_TEMP{"))
    assert 'UUID="GPU-0"' in line
    assert 'pci_bus_id="00000000:10:00.0"' in line
    assert 'modelName="NVIDIA H100 80GB HBM3"' in line
    assert f'Hostname="{socket.gethostname()}"' in line
    assert 'DCGM_FI_DRIVER_VERSION="580.95.05"' in line
    assert "_total" not in text, "the names are to be those of DCGM to the letter"


def test_a_lost_gpu_is_counted_and_takes_no_other_along() -> None:
    library = Nvml()
    library.lost.add(1)
    found = scrape(GpuCollector(lambda: library))
    assert (found["ai102_gpus[]"], found["ai102_gpus_silent[]"]) == (2, 1)
    assert "DCGM_FI_DEV_GPU_TEMP[0]" in found
    assert "DCGM_FI_DEV_GPU_TEMP[1]" not in found


def test_without_a_library_there_are_no_gpus_and_the_reason() -> None:
    def load() -> Any:
        raise ModuleNotFoundError("No module named 'pynvml'")

    assert scrape(GpuCollector(load)) == {
        "ai102_gpu_driver_up[ModuleNotFoundError: No module named 'pynvml']": 0,
        "ai102_gpus[]": 0,
        "ai102_gpus_silent[]": 0,
    }


def test_a_driver_that_was_changed_underneath_is_found_again() -> None:
    library = Nvml()
    collector = GpuCollector(lambda: library)
    assert scrape(collector)["ai102_gpus[]"] == 2
    library.broken = True
    found = scrape(collector)
    assert (found["ai102_gpus[]"], library.started) == (0, 0)
    assert "ai102_gpu_driver_up[UnsupportedError: Driver/library version mismatch]" in found
    library.broken = False
    assert scrape(collector)["ai102_gpus[]"] == 2


def test_the_last_fault_is_told() -> None:
    library = Nvml()
    collector = GpuCollector(lambda: library)
    library.faults.append((0, 79))
    scrape(collector)
    deadline = time.monotonic() + 5
    while not scrape(collector)["DCGM_FI_DEV_XID_ERRORS[0]"] and time.monotonic() < deadline:
        time.sleep(0.01)
    found = scrape(collector)
    assert (found["DCGM_FI_DEV_XID_ERRORS[0]"], found["DCGM_FI_DEV_XID_ERRORS[1]"]) == (79, 0)


@contextmanager
def running(tls: TlsFiles | None = None) -> Iterator[int]:
    server = Exporter(("127.0.0.1", 0), lambda: b"ai102_gpus 0.0\n", tls)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def get(connection: http.client.HTTPConnection, path: str = "/metrics") -> tuple[int, str, str]:
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.getheader("Content-Type") or "", response.read().decode()


def test_metrics_over_http() -> None:
    with running() as port:
        status, kind, text = get(http.client.HTTPConnection("127.0.0.1", port, timeout=5))
        assert (status, text) == (200, "ai102_gpus 0.0\n")
        assert kind.startswith("text/plain; version=0.0.4")
        assert get(http.client.HTTPConnection("127.0.0.1", port, timeout=5), "/secrets")[0] == 404


def test_a_silent_caller_keeps_nobody_waiting() -> None:
    with running() as port, socket.create_connection(("127.0.0.1", port)):
        assert get(http.client.HTTPConnection("127.0.0.1", port, timeout=5))[0] == 200


def test_mutual_tls_and_renewed_certificates(tmp_path: Path) -> None:
    authorities = [Authority(tmp_path, name) for name in ("first", "second")]
    paths = (tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "ca.pem")

    def install(authority: Authority) -> None:
        certificate, key = authority.issue("localhost", SERVER_AUTH)
        for source, target in zip((certificate, key, authority.path), paths, strict=True):
            target.write_bytes(source.read_bytes())

    def ask(authority: Authority, *, client: bool = True) -> int:
        context = ssl.create_default_context(cafile=str(authority.path))
        if client:
            context.load_cert_chain(*authority.issue("client", CLIENT_AUTH))
        return get(http.client.HTTPSConnection("localhost", port, context=context, timeout=5))[0]

    first, second = authorities
    install(first)
    with running(TlsFiles(*paths)) as port:
        assert ask(first) == 200
        for _turn in range(20):
            # The reason must arrive, not a reset of the connection.
            with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
                ask(first, client=False)
        install(second)
        assert ask(second) == 200
        # A half-written renewal keeps the former one in force.
        paths[0].write_text("half")
        assert ask(second) == 200


def test_unusable_tls_files_are_refused_at_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "server.pem").write_text("nothing")
    with pytest.raises(ServerError, match="cannot be used"):
        TlsFiles(tmp_path / "server.pem", tmp_path / "absent.key", None).context()
    assert main(["gpu-exporter", "--certificate", str(tmp_path / "server.pem")]) == 1
    assert "--certificate and --key" in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["gpu-exporter", "--port", str(taken.getsockname()[1])]) == 1
    assert "cannot listen at 127.0.0.1:" in capsys.readouterr().err


def test_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpu-exporter", "--once"]) == 0
    assert "ai102_gpus " in capsys.readouterr().out
