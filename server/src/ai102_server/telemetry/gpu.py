# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Memory and load of GPUs, through NVIDIA's management library (package ``nvidia-ml-py``, used when it is there)."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

__all__ = ["GpuFigures", "Gpus"]

logger = logging.getLogger(__name__)


class GpuFigures(NamedTuple):
    """One GPU. Bytes; ``busy`` from 0 to 1."""

    device: int
    name: str
    uuid: str
    used_bytes: int
    total_bytes: int
    busy: float | None


class Gpus:
    """The GPUs of these numbers. Without the library or a driver there are none, and the log says so once."""

    def __init__(self, devices: Sequence[int]) -> None:
        self._devices: Final = tuple(devices)
        self._library: Any = None
        try:
            library = importlib.import_module("pynvml")
            library.nvmlInit()
            self._library = library
        except Exception as error:  # noqa: BLE001  # the library's errors are of a class that is not there without it
            logger.warning("no figures of GPUs", extra={"reason": f"{type(error).__name__}: {error}"[:200]})

    def figures(self) -> list[GpuFigures]:
        """Figures of those that answer."""
        if self._library is None:
            return []
        return [figures for device in self._devices if (figures := self._figures(device)) is not None]

    def _figures(self, device: int) -> GpuFigures | None:
        library = self._library
        try:
            handle = self._handle(device)
            memory = library.nvmlDeviceGetMemoryInfo(handle)
            name, uuid = library.nvmlDeviceGetName(handle), library.nvmlDeviceGetUUID(handle)
        except Exception:  # noqa: BLE001  # a GPU that fell off the bus must not take the other figures along
            return None
        try:
            busy = library.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        except Exception:  # noqa: BLE001  # not every GPU has it, parts of one (MIG) have not
            busy = None
        return GpuFigures(device, _text(name), _text(uuid), int(memory.used), int(memory.total), busy)

    def _handle(self, device: int) -> Any:  # noqa: ANN401  # the library has no types
        """The library does not know of CUDA_VISIBLE_DEVICES, by which CUDA numbers what it may see."""
        visible = [item.strip() for item in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if item.strip()]
        if device >= len(visible):
            return self._library.nvmlDeviceGetHandleByIndex(device)
        if visible[device].isdigit():
            return self._library.nvmlDeviceGetHandleByIndex(int(visible[device]))
        return self._library.nvmlDeviceGetHandleByUUID(visible[device])


def _text(value: str | bytes) -> str:
    # Bytes in old versions of the library.
    return value.decode(errors="replace") if isinstance(value, bytes) else value
