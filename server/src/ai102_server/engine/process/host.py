# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""What runs in an engine process: the models of one device, for all workers that ask.

Each lane has a thread, and belongs to one model. Its first message opens the model; the first lane to do so has it
loaded, and the last to close has it forgotten. What lanes ask at the same time runs together where the model's plan
says so, whichever workers they come from.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from ai102_server.config import Config, ModelRef
from ai102_server.engine.loader import Loader
from ai102_server.engine.process.lane import Lane, LaneError, Tensor
from ai102_server.engine.registry import LoadedModel
from ai102_server.errors import RequestError

__all__ = ["EngineHost"]

logger = logging.getLogger(__name__)

_SERVER_ERROR: Final = 500


class _Key(NamedTuple):
    name: str
    version: str
    path: str
    sha256: str


class _Place:
    """A model that lanes use, and the runs that no worker has been told of yet."""

    def __init__(self) -> None:
        self.lock: Final = threading.Lock()
        self.lanes = 0
        self.model: LoadedModel | None = None
        self.runs: Final[deque[tuple[int, float]]] = deque()


class EngineHost:
    """Loads models, and answers lanes.

    Args:
        config: As the workers have it.
        device: Number of the GPU.

    """

    def __init__(self, config: Config, device: int) -> None:
        self._lock: Final = threading.Lock()
        self._places: Final[dict[_Key, _Place]] = {}
        self._lanes = 0
        # It runs for all workers what each of them would run for itself.
        self._loader: Final = Loader(replace(config, workers=1), device, self._observe)

    @property
    def lanes(self) -> int:
        """Connections at the moment."""
        return self._lanes

    @property
    def models(self) -> list[tuple[str, str]]:
        """Name and version of what is loaded, or being loaded."""
        with self._lock:
            return sorted((key.name, key.version) for key in self._places)

    def serve(self, listener: socket.socket) -> None:
        """Accept lanes for ever."""
        while True:
            end, _address = listener.accept()
            threading.Thread(target=self._attend, args=(end,), name="lane", daemon=True).start()

    def _attend(self, end: socket.socket) -> None:
        key: _Key | None = None
        with self._lock:
            self._lanes += 1
        try:
            lane = Lane.accept(end)
            message, _none = lane.receive()
            if message["do"] == "watch":
                lane.send({})
                lane.receive()
                return
            key = _Key(*message["model"])
            place = self._enter(key)
            self._open(lane, key, place)
            while True:
                message, tensors = lane.receive()
                self._run(lane, place, message, tensors)
                # Views of the lane's memory: they must not outlive it.
                del tensors
        except LaneError as error:
            logger.debug("a lane is closed", extra={"reason": str(error)})
        except Exception:
            logger.exception("a lane failed")
        finally:
            end.close()
            with self._lock:
                self._lanes -= 1
                if key is not None:
                    self._leave(key)

    # Models that come and go -------------------------------------------------------------------------------------
    def _enter(self, key: _Key) -> _Place:
        with self._lock:
            place = self._places.setdefault(key, _Place())
            place.lanes += 1
            return place

    def _leave(self, key: _Key) -> None:
        """Called with the lock held."""
        place = self._places[key]
        place.lanes -= 1
        if not place.lanes:
            del self._places[key]

    def _open(self, lane: Lane, key: _Key, place: _Place) -> None:
        """Load the model, unless it is, and say what it is. What failed is tried again by the next that opens it."""
        with place.lock:
            model = place.model
            if model is None or not model.ready:
                model = self._loader.load(ModelRef(key.name, key.version, Path(key.path)))
                place.model = model
        reason = model.reason
        if reason is None and model.sha256 != key.sha256:
            reason = "the package changed while it was loaded"
        answer: dict[str, Any] = {"reason": reason, "provider": model.provider}
        session = model.session
        if session is not None:
            for role, specs in (("inputs", session.inputs), ("outputs", session.outputs)):
                answer[role] = [[spec.name, spec.datatype.name, spec.shape] for spec in specs.values()]
        if model.run is not None:
            plan = model.run.plan
            answer["batching"] = model.batching
            # Company is waited for here, where the requests of all workers come together.
            answer["plan"] = {"max_size": plan.max_size, "padding": dict(plan.padding)}
        lane.send(answer)

    # Runs ----------------------------------------------------------------------------------------------------------
    def _observe(self, name: str, version: str, rows: int, seconds: float) -> None:
        """A session ran: remember it for the workers, who count."""
        with self._lock:
            places = [place for key, place in self._places.items() if (key.name, key.version) == (name, version)]
        for place in places[-1:]:
            place.runs.append((rows, seconds))

    def _run(self, lane: Lane, place: _Place, message: dict[str, Any], tensors: list[Tensor]) -> None:
        model = place.model
        answer: dict[str, Any] = {}
        outputs: list[Tensor] = []
        if model is None or model.run is None or model.session is None:
            answer["error"] = [503, "the model is not ready", "not_ready"]
        else:
            names = message["outputs"]
            try:
                outcome = model.run({tensor.name: tensor.array for tensor in tensors}, names)
            except RequestError as error:
                answer["error"] = [error.status, error.message, error.reason]
            except Exception as error:
                # What a library says may hold parts of the payload: it is for the log of this process.
                logger.exception("inference failed", extra={"model": model.name, "version": model.version})
                answer["error"] = [_SERVER_ERROR, type(error).__name__, ""]
            else:
                specs = model.session.outputs
                outputs = [
                    Tensor(name, specs[name].datatype, array)
                    for name, array in zip(names, outcome.outputs, strict=True)
                ]
        answer["runs"] = _drained(place.runs)
        lane.send(answer, outputs)


def _drained(runs: deque[tuple[int, float]]) -> list[tuple[int, float]]:
    taken: list[tuple[int, float]] = []
    while runs and len(taken) < 100:  # noqa: PLR2004 - so that the message stays small
        try:
            taken.append(runs.popleft())
        except IndexError:  # another lane was quicker
            break
    return taken
