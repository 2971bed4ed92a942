# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Metrics of all GPUs of a host, under the names of NVIDIA's DCGM exporter, so that its dashboards and alerts fit.

They are read through NVIDIA's management library (package ``nvidia-ml-py``). Without the library, a driver or a GPU the
metrics say so, and a driver that comes later is found by itself.
"""

from __future__ import annotations

import importlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric

__all__ = ["GpuCollector"]

#: What the parts of a divided GPU tell by themselves.
_OF_INSTANCES: Final = ("DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE", "DCGM_FI_DEV_FB_TOTAL")
_MIB: Final = 1024 * 1024

Library = Any
Handle = Any


class _Field(NamedTuple):
    """One metric of a GPU: its name, kind and meaning, and how it is asked for."""

    name: str
    counter: bool
    description: str
    ask: Callable[[Library, Handle], float]


def _remapped(position: int) -> Callable[[Library, Handle], float]:
    return lambda library, handle: float(library.nvmlDeviceGetRemappedRows(handle)[position])


def _ecc(kind: str, span: str) -> Callable[[Library, Handle], float]:
    return lambda library, handle: float(
        library.nvmlDeviceGetTotalEccErrors(
            handle,
            getattr(library, f"NVML_MEMORY_ERROR_TYPE_{kind}"),
            getattr(library, f"NVML_{span}_ECC"),
        )
    )


def _memory_temperature(library: Library, handle: Handle) -> float:
    (value,) = library.nvmlDeviceGetFieldValues(handle, [library.NVML_FI_DEV_MEMORY_TEMP])
    if value.nvmlReturn:
        raise LookupError(value.nvmlReturn)
    return float(value.value.uiVal)


def _event_reasons(library: Library, handle: Handle) -> float:
    # Renamed in driver 535; the old name goes away some day, the new one is not everywhere yet.
    ask = getattr(library, "nvmlDeviceGetCurrentClocksEventReasons", None)
    return float((ask or library.nvmlDeviceGetCurrentClocksThrottleReasons)(handle))


_FIELDS: Final = (
    _Field("DCGM_FI_DEV_SM_CLOCK", False, "SM clock in MHz.",
           lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)),
    _Field("DCGM_FI_DEV_MEM_CLOCK", False, "Memory clock in MHz.",
           lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM)),
    _Field("DCGM_FI_DEV_GPU_TEMP", False, "GPU temperature in °C.",
           lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)),
    _Field("DCGM_FI_DEV_MEMORY_TEMP", False, "Memory temperature in °C.", _memory_temperature),
    _Field("DCGM_FI_DEV_POWER_USAGE", False, "Power draw in W.",
           lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000),
    _Field("DCGM_FI_DEV_POWER_MGMT_LIMIT", False, "Power limit in W.",
           lambda nvml, gpu: nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000),
    _Field("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", True, "Energy since the driver was loaded, in mJ.",
           lambda nvml, gpu: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu)),
    _Field("DCGM_FI_DEV_GPU_UTIL", False, "GPU utilisation in %.",
           lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu),
    _Field("DCGM_FI_DEV_MEM_COPY_UTIL", False, "Memory utilisation in %.",
           lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).memory),
    _Field("DCGM_FI_DEV_ENC_UTIL", False, "Encoder utilisation in %.",
           lambda nvml, gpu: nvml.nvmlDeviceGetEncoderUtilization(gpu)[0]),
    _Field("DCGM_FI_DEV_DEC_UTIL", False, "Decoder utilisation in %.",
           lambda nvml, gpu: nvml.nvmlDeviceGetDecoderUtilization(gpu)[0]),
    _Field("DCGM_FI_DEV_FB_USED", False, "Memory in use, in MiB.",
           lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used / _MIB),
    _Field("DCGM_FI_DEV_FB_FREE", False, "Free memory, in MiB.",
           lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).free / _MIB),
    _Field("DCGM_FI_DEV_FB_TOTAL", False, "Memory, in MiB.",
           lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).total / _MIB),
    _Field("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", False, "Why clocks are lower than they could be, as bits.",
           _event_reasons),
    _Field("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", True, "Corrected memory errors since the last reset.",
           _ecc("CORRECTED", "VOLATILE")),
    _Field("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", True, "Uncorrected memory errors since the last reset.",
           _ecc("UNCORRECTED", "VOLATILE")),
    _Field("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", True, "Corrected memory errors of its life.",
           _ecc("CORRECTED", "AGGREGATE")),
    _Field("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", True, "Uncorrected memory errors of its life.",
           _ecc("UNCORRECTED", "AGGREGATE")),
    _Field("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", True, "Rows remapped after corrected errors.", _remapped(0)),
    _Field("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", True, "Rows remapped after uncorrected errors.", _remapped(1)),
    _Field("DCGM_FI_DEV_ROW_REMAP_PENDING", False, "1 when a row is remapped at the next reset.", _remapped(2)),
    _Field("DCGM_FI_DEV_ROW_REMAP_FAILURE", False, "1 when the memory cannot be repaired.", _remapped(3)),
    _Field("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", True, "Retries on the PCIe link.",
           lambda nvml, gpu: nvml.nvmlDeviceGetPcieReplayCounter(gpu)),
)  # fmt: skip


class GpuCollector:
    """Collects for Prometheus; every scrape asks the driver.

    Args:
        load: gives the library; the default is the package ``nvidia-ml-py``.

    """

    def __init__(self, load: Callable[[], Library] = lambda: importlib.import_module("pynvml")) -> None:
        self._load = load
        self._library: Library = None
        self._problem = ""
        self._lock: Final = threading.Lock()
        self._xids: Final[dict[str, int]] = {}
        self._host: Final = socket.gethostname()
        self._watching = False

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        with self._lock:
            handles = self._handles()
            up = GaugeMetricFamily(
                "ai102_gpu_driver_up", "1 when the driver answers; the reason, when it does not.", labels=("reason",)
            )
            up.add_metric((self._problem,), float(self._library is not None))
            yield up
            count = len(handles)
            yield GaugeMetricFamily("ai102_gpus", "GPUs that the driver has.", value=count)
            driver = self._driver() if count else ""
            known: list[tuple[Handle, dict[str, str]]] = []
            silent = 0
            for index, handle in handles:
                labels = self._labels(index, handle, driver)
                if labels is None:
                    silent += 1
                else:
                    known.append((handle, labels))
            yield GaugeMetricFamily("ai102_gpus_silent", "GPUs that do not answer any more.", value=silent)
            if known:
                yield from self._figures(known)

    def describe(self) -> Iterator[Metric]:
        """Nothing is promised beforehand: what a GPU can tell is known when it is asked."""
        return iter(())

    def _handles(self) -> list[tuple[int, Handle | None]]:
        """GPUs by number; None for one that does not answer."""
        if self._library is None:
            try:
                library = self._load()
                library.nvmlInit()
            except Exception as error:  # noqa: BLE001  # its errors are of a class that is not there without it
                self._problem = _reason(error)
                return []
            self._library, self._problem = library, ""
        library = self._library
        try:
            count = int(library.nvmlDeviceGetCount())
        except Exception as error:  # noqa: BLE001
            # The driver was changed underneath: the next scrape starts anew.
            self._forget(_reason(error))
            return []
        found: list[tuple[int, Handle | None]] = []
        for index in range(count):
            try:
                found.append((index, library.nvmlDeviceGetHandleByIndex(index)))
            except Exception:  # noqa: BLE001  # one that fell off the bus must not take the others along
                found.append((index, None))
        self._watch([handle for _index, handle in found if handle is not None])
        return found

    def _forget(self, problem: str) -> None:
        try:
            self._library.nvmlShutdown()
        except Exception:  # noqa: BLE001  # it is gone already
            problem = problem or "gone"
        self._library, self._problem = None, problem

    def _driver(self) -> str:
        try:
            return _text(self._library.nvmlSystemGetDriverVersion())
        except Exception:  # noqa: BLE001
            return ""

    def _labels(self, index: int, handle: Handle | None, driver: str) -> dict[str, str] | None:
        if handle is None:
            return None
        library = self._library
        try:
            uuid = _text(library.nvmlDeviceGetUUID(handle))
            name = _text(library.nvmlDeviceGetName(handle))
            bus = _text(library.nvmlDeviceGetPciInfo(handle).busId)
        except Exception:  # noqa: BLE001
            return None
        return {
            "gpu": str(index),
            "UUID": uuid,
            "pci_bus_id": bus,
            "device": f"nvidia{index}",
            "modelName": name,
            "Hostname": self._host,
            "DCGM_FI_DRIVER_VERSION": driver,
        }

    def _figures(self, gpus: list[tuple[Handle, dict[str, str]]]) -> Iterator[Metric]:
        parts = [(handle, labels, self._instances(handle, labels)) for handle, labels in gpus]
        for field in _FIELDS:
            # The exporter of DCGM gives counters without the suffix that the library would add to them.
            family = Metric(field.name, field.description, "unknown" if field.counter else "gauge")
            for handle, labels, instances in parts:
                # A divided GPU tells its memory part by part, so that a sum counts nothing twice.
                for asked, named in instances if instances and field.name in _OF_INSTANCES else [(handle, labels)]:
                    value = _ask(field, self._library, asked)
                    if value is not None:
                        family.add_sample(field.name, named, value)
            if family.samples:
                yield family
        xids = Metric("DCGM_FI_DEV_XID_ERRORS", "The last fault (XID) since the exporter was started, or 0.", "gauge")
        for _handle, labels in gpus:
            xids.add_sample(xids.name, labels, float(self._xids.get(labels["UUID"], 0)))
        yield xids

    def _instances(self, handle: Handle, labels: dict[str, str]) -> list[tuple[Handle, dict[str, str]]]:
        """The parts of a divided GPU (MIG), with what names them; empty for one that is whole."""
        library = self._library
        try:
            enabled = library.nvmlDeviceGetMigMode(handle)[0]
            number = int(library.nvmlDeviceGetMaxMigDeviceCount(handle)) if enabled else 0
        except Exception:  # noqa: BLE001  # not every GPU can be divided
            return []
        found = []
        for position in range(number):
            try:
                part = library.nvmlDeviceGetMigDeviceHandleByIndex(handle, position)
                instance = str(library.nvmlDeviceGetGpuInstanceId(part))
                profile = re.search(r"\d+g\.\S+", _text(library.nvmlDeviceGetName(part)))
            except Exception:  # noqa: BLE001, S112  # numbers of parts that were never made
                continue
            name = profile.group() if profile else ""
            found.append((part, {**labels, "GPU_I_PROFILE": name, "GPU_I_ID": instance}))
        return found

    def _watch(self, handles: list[Handle]) -> None:
        """Listen for faults, once there are GPUs; the driver tells them only while somebody listens."""
        if self._watching or not handles:
            return
        library = self._library
        try:
            events = library.nvmlEventSetCreate()
            for handle in handles:
                library.nvmlDeviceRegisterEvents(handle, library.nvmlEventTypeXidCriticalError, events)
        except Exception:  # noqa: BLE001  # virtual GPUs have none
            return
        self._watching = True
        threading.Thread(target=self._listen, args=(library, events), name="xids", daemon=True).start()

    def _listen(self, library: Library, events: Any) -> None:  # noqa: ANN401  # the library has no types
        while self._library is library:
            try:
                event = library.nvmlEventSetWait_v2(events, 5000)
                self._xids[_text(library.nvmlDeviceGetUUID(event.device))] = int(event.eventData)
            except Exception as error:  # noqa: BLE001
                if "imeout" not in str(error):
                    break
        self._watching = False


def _ask(field: _Field, library: Library, handle: Handle) -> float | None:
    try:
        return float(field.ask(library, handle))
    except Exception:  # noqa: BLE001  # a figure that this GPU does not have
        return None


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


def _text(value: str | bytes) -> str:
    # Bytes in old versions of the library.
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
