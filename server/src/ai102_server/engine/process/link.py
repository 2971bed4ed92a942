# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a worker holds of an engine process: the connection, and sessions that look like those of ONNX Runtime.

A worker outlives its engine process. While the supervisor starts another one, requests that were in it are answered
503, those that come wait for the new one, and the worker is not ready, so that gateways ask other hosts; the new
process loads the models that are open before it is used.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ai102_server.codec import DATATYPES, TensorSpec
from ai102_server.codec.datatypes import Array
from ai102_server.config import ModelRef
from ai102_server.engine.batching import BatchingPlan
from ai102_server.engine.process.lane import Lane, LaneError, LaneUnreadError, Tensor
from ai102_server.engine.session import sample_inputs
from ai102_server.errors import ModelError, RequestError

__all__ = ["EngineLink", "RemoteSession"]

logger = logging.getLogger(__name__)

_SERVER_ERROR: Final = 500
_AGAIN_SECONDS: Final = 0.05
_FAILED_SECONDS: Final = 2.0
_LOAD_SECONDS: Final = 600.0
_RUN_SECONDS: Final = 600.0
"""A run that takes longer is given up: the device hangs."""


class EngineLink:
    """A worker's connection to the engine process of its device.

    Args:
        address: Socket of the process.
        seconds: How long requests wait for a process that is being started.

    """

    def __init__(self, address: bytes, seconds: float) -> None:
        self._address: Final = address
        self.seconds: Final = seconds
        self._sessions: Final[weakref.WeakSet[RemoteSession]] = weakref.WeakSet()
        self.generation = 0
        # Until the first process is known to have ended, there is none: what cannot be opened says so itself.
        self.problem: str | None = None
        threading.Thread(target=self._watch, name="engine-watch", daemon=True).start()

    def connect(self, seconds: float | None) -> Lane:
        """A new lane. Raises ``LaneError``."""
        return Lane.connect(self._address, seconds)

    def open(self, ref: ModelRef, sha256: str) -> RemoteSession:
        """Have the engine process load a model, unless it has. Raises ``ModelError`` when there is nothing to show."""
        session = RemoteSession(self, ref, sha256)
        self._sessions.add(session)
        return session

    def _watch(self) -> None:
        """Notice when the process ends, and have the next one load what is open."""
        while True:
            try:
                # A process that is not there yet is waited for: the supervisor holds its socket all the time.
                lane = self.connect(None)
                lane.send({"do": "watch"})
                lane.receive()
                if self.generation:
                    self._reopen()
                lane.receive()
            except LaneError as error:
                logger.debug("the engine process is gone", extra={"reason": str(error)})
            except Exception:
                # This thread must go on: without it nobody would notice the next end.
                logger.exception("watching the engine process failed")
            self.generation += 1
            self.problem = "the engine process ended and is being started again"
            time.sleep(_AGAIN_SECONDS)

    def _reopen(self) -> None:
        """Open all models again, as often as it takes. Raises ``LaneError`` when the process is gone meanwhile."""
        while True:
            failed = [session.ref.name for session in list(self._sessions) if not self._reopened(session)]
            if not failed:
                self.problem = None
                return
            self.problem = f"the new engine process cannot load {', '.join(sorted(failed))}"
            time.sleep(_FAILED_SECONDS)

    def _reopened(self, session: RemoteSession) -> bool:
        try:
            session.reopen()
        except ModelError as error:
            facts = {"model": session.ref.name, "version": session.ref.version, "reason": str(error)}
            logger.error("the new engine process cannot load a model", extra=facts)  # noqa: TRY400 - the reason is said
            return False
        return True


class RemoteSession:
    """A model in an engine process, as ``ModelSession`` is one in this process. ``run`` is for any thread."""

    def __init__(self, link: EngineLink, ref: ModelRef, sha256: str) -> None:
        self.ref: Final = ref
        self._link: Final = link
        self._question: Final = {"do": "open", "model": [ref.name, ref.version, str(ref.path), sha256]}
        # Idle lanes, each with the generation of the process that it leads to.
        self._idle: Final[list[tuple[int, Lane]]] = []
        self.observe: Any = None
        generation = link.generation
        try:
            lane, answer = self._connect()
        except LaneError as error:
            raise ModelError(f"the engine process cannot load the model: {error}") from error
        self.reason: str | None = answer["reason"]
        if "inputs" not in answer:
            lane.close()
            raise ModelError(self.reason or "the engine process did not load the model")
        self.provider: str = answer["provider"]
        self.inputs: dict[str, TensorSpec] = _specs(answer["inputs"])
        self.outputs: dict[str, TensorSpec] = _specs(answer["outputs"])
        self.batching: str = answer.get("batching", "")
        self.plan = BatchingPlan(**answer.get("plan", {}))
        # Kept also when the model is not ready: the engine process then forgets it with this session.
        self._idle.append((generation, lane))

    @property
    def problem(self) -> str | None:
        """Why no request can be answered now; None when one can."""
        return self._link.problem

    def reopen(self) -> None:
        """Open the model in a new process. Raises ``ModelError``, and ``LaneError`` when the process is gone."""
        generation = self._link.generation
        lane, answer = self._connect()
        if self.reason is None and answer["reason"] is not None:
            lane.close()
            raise ModelError(answer["reason"])
        for _generation, old in self._taken():
            old.close()
        self._idle.append((generation, lane))

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Compute ``outputs``, in that order.

        Raises:
            RequestError: 400 when the model refuses the inputs, 503 when the engine process ended or hangs.
            RuntimeError: The run failed there; its log says why.

        """
        generation, lane, answer, arrays = self._asked(inputs, outputs)
        if lane.large or generation != self._link.generation:
            lane.close()
        else:
            self._idle.append((generation, lane))
        for rows, seconds in answer["runs"]:
            if self.observe is not None:
                self.observe(rows, seconds)
        failure = answer.get("error")
        if failure is None:
            return arrays
        status, text, reason = failure
        if status == _SERVER_ERROR:
            raise RuntimeError(f"the run failed in the engine process: {text}")
        raise RequestError(status, text, retry_after=1 if status == 503 else None, reason=reason)  # noqa: PLR2004

    def _asked(
        self, inputs: Mapping[str, Array], outputs: Sequence[str]
    ) -> tuple[int, Lane, dict[str, Any], list[Array]]:
        """Ask, and wait for the answer.

        Returns:
            The generation of the process that answered, the lane to it, what it said and the arrays with it.

        """
        message = {"do": "run", "outputs": list(outputs)}
        specs = self.inputs
        tensors = [Tensor(name, specs[name].datatype, array) for name, array in inputs.items()]
        while True:
            generation, lane = self._lane()
            try:
                lane.send(message, tensors)
                answer, found = lane.receive()
                return generation, lane, answer, [tensor.array.copy() for tensor in found]
            except LaneUnreadError:
                # It was idle when the process ended, or the process ended before it read the question: the next one may
                # be asked. One that has read it may have died of it.
                lane.close()
            except LaneError as error:
                lane.close()
                text = "the engine is being started again"
                raise RequestError(503, text, retry_after=1, reason="not_ready") from error
            except BaseException:
                # Nobody knows what the other end has read.
                lane.close()
                raise

    def sample_inputs(self) -> dict[str, Array]:
        """Inputs of zeros (empty strings), every open axis of length 1."""
        return sample_inputs(self.inputs)

    def _taken(self) -> list[tuple[int, Lane]]:
        """All idle lanes, which are no longer among them."""
        taken: list[tuple[int, Lane]] = []
        while self._idle:
            try:
                taken.append(self._idle.pop())
            except IndexError:  # another thread was quicker
                break
        return taken

    def _lane(self) -> tuple[int, Lane]:
        """A lane that is idle, or a new one. Raises ``RequestError`` (503)."""
        while True:
            try:
                generation, lane = self._idle.pop()
            except IndexError:
                break
            if generation == self._link.generation:
                return generation, lane
            lane.close()
        until = time.monotonic() + self._link.seconds
        while True:
            generation = self._link.generation
            try:
                lane, answer = self._connect(self._link.seconds)
                break
            except LaneError as error:
                if isinstance(error, LaneUnreadError) and time.monotonic() < until:
                    continue
                raise RequestError(503, "the engine is not there", retry_after=1, reason="not_ready") from error
        if answer["reason"] is not None:
            lane.close()
            raise RequestError(503, "the engine has not loaded the model", retry_after=1, reason="not_ready")
        return generation, lane

    def _connect(self, seconds: float | None = None) -> tuple[Lane, dict[str, Any]]:
        """A lane with the model open, and what was said of it. Raises ``LaneError``."""
        lane = self._link.connect(_LOAD_SECONDS if seconds is None else seconds)
        try:
            lane.send(self._question)
            answer, _none = lane.receive()
            lane.patience(_RUN_SECONDS)
        except BaseException:
            lane.close()
            raise
        return lane, answer


def _specs(items: Sequence[tuple[str, str, Sequence[int]]]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(name, DATATYPES[kind], tuple(shape)) for name, kind, shape in items}
