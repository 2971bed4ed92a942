# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Figures of processes, from Linux' ``/proc`` (proc_pid_stat(5), proc_pid_limits(5))."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["ProcessFigures", "process_figures", "start_ticks"]

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
# Fields after the name, which begins with "(" and ends with the last ")" and may hold anything.
_UTIME, _STIME, _THREADS, _STARTTIME, _VSIZE, _RSS = 11, 12, 17, 19, 20, 21


class ProcessFigures(NamedTuple):
    """What a process uses. Seconds and bytes; ``started`` is a time since 1970."""

    cpu_seconds: float
    threads: int
    started: float
    virtual_bytes: int
    resident_bytes: int
    open_files: int | None
    max_files: int | None


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    # A process that ended and was not waited for yet is gone as well.
    return None if not fields or fields[0] in "ZX" else fields


def start_ticks(pid: int) -> int | None:
    """When a process was started, in clock ticks since boot: with its number, it tells it from all others.

    None when there is no such process.
    """
    fields = _stat(pid)
    return None if fields is None else int(fields[_STARTTIME])


def _boot_time() -> float:
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0


def process_figures(pid: int) -> ProcessFigures | None:
    """Figures of a process; None when it is gone or hidden. What may not be read is None."""
    fields = _stat(pid)
    if fields is None:
        return None
    open_files = max_files = None
    try:
        open_files = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  # counted, not walked
        for line in Path(f"/proc/{pid}/limits").read_text(encoding="ascii").splitlines():
            if line.startswith("Max open files"):
                limit = line.split()[3]
                max_files = int(limit) if limit.isdigit() else None
    except OSError:
        pass
    return ProcessFigures(
        cpu_seconds=(int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS,
        threads=int(fields[_THREADS]),
        started=_boot_time() + int(fields[_STARTTIME]) / _TICKS,
        virtual_bytes=int(fields[_VSIZE]),
        resident_bytes=int(fields[_RSS]) * _PAGE,
        open_files=open_files,
        max_files=max_files,
    )
