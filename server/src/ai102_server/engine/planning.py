# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Finds out, on this machine and with this model, whether and how far running requests together pays.

It must be correct first: two requests run as one batch must give what each gives alone. A model whose first axis is no
batch (a length, say) fails that and runs requests one by one. Then it must be faster: runs of growing batches are
timed, and the smallest that is within five per cent of the best throughput is the size to aim for.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Final, Literal, Protocol

import numpy as np

from ai102_server.codec import TensorSpec
from ai102_server.codec.datatypes import Array
from ai102_server.config import Batching
from ai102_server.engine.batching import BatchingPlan, pad

__all__ = ["Runner", "plan_batching"]

logger = logging.getLogger(__name__)

_WORTH: Final = 1.15
"""So many times the throughput of single runs must be reached; less is within the noise of a measurement."""
_WORTH_SECONDS: Final = 100e-6
"""So much must be saved for each row: giving a request to another thread and back costs tens of microseconds."""
_QUICK_SECONDS: Final = 200e-6
"""Runs shorter than this need no slot, for the same reason."""
_NEAR_BEST: Final = 0.95
_RUN_SECONDS: Final = 0.03
_TOTAL_SECONDS: Final = 3.0
_SLOW_SECONDS: Final = 1.0


class Runner(Protocol):
    """What is needed of a session."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]

    @property
    def provider(self) -> str:
        """The execution provider that is really used first."""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Compute ``outputs``, in that order."""

    def sample_inputs(self) -> dict[str, Array]:
        """Inputs that have the right shapes."""


def plan_batching(
    session: Runner, samples: Sequence[Mapping[str, Array]], wish: Batching, padding: Mapping[str, float]
) -> tuple[BatchingPlan, str]:
    """Decide how requests of a model are put together.

    Args:
        session: The model, warmed up.
        samples: Inputs that the model is known to take, as those of golden requests.
        wish: What the configuration says.
        padding: By input name, the value to pad with where the model allows it.

    Returns:
        The plan, and the reason for it in words.

    """
    outputs = list(session.outputs)
    alone = BatchingPlan(slot=_slot(session, samples[0] if samples else session.sample_inputs(), outputs))
    if wish.enabled == "never" or wish.max_size == 1:
        return alone, "switched off"
    fixed = [spec.name for spec in (*session.inputs.values(), *session.outputs.values()) if spec.shape[:1] != (-1,)]
    if fixed:
        return alone, f"the first axis of '{fixed[0]}' is not open, so there is no batch axis"
    ragged = [spec.name for spec in session.outputs.values() if padding and any(axis == -1 for axis in spec.shape[1:])]
    if ragged:
        return alone, f"output '{ragged[0]}' would show the padding of others: its shape depends on the inputs"
    if not samples:
        return alone, "no golden request to try it with"
    reason = _differs(session, samples, outputs, padding)
    if reason is not None:
        return alone, reason
    if wish.enabled == "always":
        return BatchingPlan(wish.max_size, padding, wish.delay), "switched on"
    size, gain = _measure(session, samples[0], outputs, wish.max_size)
    if size == 1:
        return alone, f"measured: batches are no faster ({gain:.2f} times the throughput at best)"
    return BatchingPlan(size, padding, wish.delay), f"measured: {gain:.2f} times the throughput at {size} rows"


def _slot(session: Runner, sample: Mapping[str, Array], outputs: Sequence[str]) -> Literal["run", "whole", "nothing"]:
    """What of a request needs a slot when requests run one by one."""
    try:
        if _time(session, sample, outputs) < _QUICK_SECONDS:
            return "nothing"
    except Exception:  # noqa: BLE001 - zeros need not be valid inputs
        logger.debug("the model does not run with zeros")
    return "whole" if session.provider == "CPUExecutionProvider" else "run"


def _differs(
    session: Runner, samples: Sequence[Mapping[str, Array]], outputs: Sequence[str], padding: Mapping[str, float]
) -> str | None:
    """Why rows of a batch are not what they are alone; None when they are."""
    first = samples[0]
    second = next((sample for sample in samples[1:] if _fits(first, sample, padding)), None)
    pair = [first, _varied(first) if second is None else second]
    try:
        single = [session.run(inputs, outputs) for inputs in pair]
        joined = {name: np.concatenate(pad([inputs[name] for inputs in pair], padding.get(name, 0))) for name in first}
        together = session.run(joined, outputs)
    except Exception as error:  # noqa: BLE001 - whatever a library raises: such requests are not run together
        return f"two requests do not run together: {str(error)[:150]}"
    rows = [len(next(iter(inputs.values()))) for inputs in pair]
    for name, alone, other, both in zip(outputs, single[0], single[1], together, strict=True):
        if len(alone) != rows[0] or len(other) != rows[1] or len(both) != sum(rows):
            return f"output '{name}' has not one row for each row of the inputs"
        if not _close(np.concatenate([alone, other]), both):
            return f"output '{name}' of a request changes with the others in its batch"
    return None


def _fits(first: Mapping[str, Array], second: Mapping[str, Array], padding: Mapping[str, float]) -> bool:
    return all(name in padding or second[name].shape[1:] == first[name].shape[1:] for name in first)


def _varied(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Other values that the model takes as well: in another order along the last axis, numbers halved."""
    return {
        name: np.ascontiguousarray(array[..., ::-1]) * (array.dtype.type(0.5) if array.dtype.kind == "f" else 1)
        if array.dtype.kind in "fiu"
        else np.ascontiguousarray(array[..., ::-1])
        for name, array in inputs.items()
    }


def _close(expected: Array, found: Array) -> bool:
    if expected.dtype.kind in "fV":
        return bool(
            np.allclose(expected.astype(np.float64), found.astype(np.float64), rtol=1e-2, atol=1e-3, equal_nan=True)
        )
    return bool(np.array_equal(expected, found))


def _measure(session: Runner, sample: Mapping[str, Array], outputs: Sequence[str], limit: int) -> tuple[int, float]:
    """The size to aim for, and how many times the throughput of single runs the best size gives."""
    rows = len(next(iter(sample.values())))
    single = {name: array[:1] for name, array in sample.items()} if rows > 1 else dict(sample)
    sizes = [size for size in (1 << power for power in range(11)) if size < limit] + [limit]
    per_row: dict[int, float] = {}
    begun = time.monotonic()
    for size in sizes:
        inputs = {name: np.concatenate([array] * size) for name, array in single.items()}
        seconds = _time(session, inputs, outputs)
        per_row[size] = seconds / size
        if seconds > _SLOW_SECONDS or time.monotonic() - begun > _TOTAL_SECONDS:
            break
    best = min(per_row.values())
    gain = per_row[1] / best
    if gain < _WORTH or per_row[1] - best < _WORTH_SECONDS:
        return 1, gain
    return next(size for size, seconds in per_row.items() if seconds * _NEAR_BEST <= best), gain


def _time(session: Runner, inputs: Mapping[str, Array], outputs: Sequence[str]) -> float:
    """Seconds of one run: the shortest of a few, because whatever disturbs makes them longer."""
    session.run(inputs, outputs)
    shortest = math.inf
    until = time.monotonic() + _RUN_SECONDS
    for _ in range(50):
        started = time.perf_counter()
        session.run(inputs, outputs)
        shortest = min(shortest, time.perf_counter() - started)
        if time.monotonic() > until:
            break
    return shortest
