# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""How a model earns the right to be served.

Its package is verified, its session runs on the required execution provider, its tensors are those that the manifest
declares, and it has reproduced its golden answers, through its pipeline where it has one, as clients will ask it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from ai102_server import pipeline
from ai102_server.codec import InferRequest, decode_request
from ai102_server.codec.datatypes import Array
from ai102_server.config import Config, Execution, ModelRef
from ai102_server.engine.batching import Batcher, QueueLimits
from ai102_server.engine.planning import plan_batching
from ai102_server.engine.process.link import EngineLink, RemoteSession
from ai102_server.engine.registry import LoadedModel, Registry, Session
from ai102_server.engine.session import ModelSession, prepare_providers
from ai102_server.errors import ModelError, RequestError
from ai102_server.repository import GoldenRequest, ModelPackage, Serving, compare_tensors, open_package
from ai102_server.repository.store import decryption_keys, public_keys

__all__ = ["Loader", "Observe", "load_registry"]

logger = logging.getLogger(__name__)

Observe = Callable[[str, str, int, float], None]
"""Told of every run of a session: model, version, rows, seconds."""


class Loader:
    """Loads models for one worker.

    Args:
        config: Options of sessions, keys, limits.
        device: Number of the GPU.
        observe: Told of every run of a session.
        link: The engine process that has the sessions; without one, this process has them.

    """

    def __init__(
        self, config: Config, device: int = 0, observe: Observe | None = None, link: EngineLink | None = None
    ) -> None:
        if link is None:
            prepare_providers(config.execution)
        self._link: Final = link
        self._config: Final = config
        self._device: Final = device
        self._observe: Final = observe

    def load(self, ref: ModelRef) -> LoadedModel:
        """Verify, load, warm up and check one model. Never raises for a model: what fails is not ready, with reason."""
        started = time.perf_counter()
        model = LoadedModel(ref.name, ref.version, None, None, None)
        try:
            model = self._load(model, ref)
        except _NotReady as stopped:
            model = stopped.model
        except ModelError as error:
            model = replace(model, failure=str(error))
        except Exception as error:
            # A broken model must not take the others down, whatever a library raises.
            facts = {"model": ref.name, "version": ref.version}
            logger.exception("unexpected error while loading a model", extra=facts)
            model = replace(model, failure=f"unexpected {type(error).__name__}, see the log")
        model = replace(model, seconds=time.perf_counter() - started)
        _log(model)
        return model

    def _load(self, model: LoadedModel, ref: ModelRef) -> LoadedModel:
        """Raises ``_NotReady`` when there is something to show for it, ``ModelError`` otherwise."""
        config = self._config
        keys = public_keys(config.store, config.model_signing_public_key)
        package = open_package(ref.path, model.name, model.version, keys, decryption_keys(config.store))
        model = replace(model, package=package, tags=package.tags)
        try:
            session = self._open(ref, package)
            model = replace(model, session=session, pipeline=pipeline.load(package))
            _check_engine(session)
            _check_provider(session, config.execution)
            _check_tensors(package, session)
            golden = package.read_golden()
            asked = _decode_golden(model, golden)
            samples = [item.inputs for item in asked]
            if isinstance(session, ModelSession):
                _warm_up(session, samples, config.execution.warmup_runs)
            _check_golden(model, golden, asked)
            run, batching = self._batcher(model, samples)
        except ModelError as error:
            raise _NotReady(replace(model, failure=str(error))) from error
        return replace(model, golden=len(golden), run=run, batching=batching)

    def _open(self, ref: ModelRef, package: ModelPackage) -> ModelSession | RemoteSession:
        if self._link is not None:
            return self._link.open(ref, package.model_sha256)
        content = package.open_model()
        return ModelSession(
            content,
            self._config.execution,
            where=str(package.model_file),
            device=self._device,
            sha256=package.model_sha256,
            external=package.external_data(content) if isinstance(content, bytes) else {},
        )

    def _batcher(self, model: LoadedModel, samples: Sequence[Mapping[str, Array]]) -> tuple[Batcher, str]:
        session, package = model.session, model.package
        assert session is not None  # noqa: S101 - tells mypy what the caller has seen to
        assert package is not None  # noqa: S101 - as above
        config, serving = self._config, package.serving
        wish = config.batching
        if wish.enabled == "auto" and serving.batching.enabled is not None:
            wish = replace(wish, enabled="always" if serving.batching.enabled else "never")
        if serving.batching.max_size is not None:
            wish = replace(wish, max_size=min(wish.max_size, serving.batching.max_size))
        observe = None if self._observe is None else partial(self._observe, model.name, model.version)
        if isinstance(session, RemoteSession):
            # What runs together is measured, and counted, in the engine process.
            plan, reason = session.plan, session.batching
            session.observe, observe = observe, None
        else:
            plan, reason = plan_batching(session, samples, wish, _padding(serving))
        limits = QueueLimits(config.limits.queue, config.limits.queue_seconds)
        return Batcher(session.run, plan, serving.instances or config.plan_threads(), limits, observe), reason


class _NotReady(Exception):  # noqa: N818 - it carries a result, and never leaves this module
    def __init__(self, model: LoadedModel) -> None:
        self.model = model


def load_registry(config: Config, device: int = 0, observe: Observe | None = None) -> Registry:
    """Load every configured model; those that fail are kept, not ready, with the reason."""
    loader = Loader(config, device, observe)
    return Registry(loader.load(ref) for ref in config.models)


def _log(model: LoadedModel) -> None:
    facts = {
        "model": model.name,
        "version": model.version,
        "provider": model.provider,
        "golden": model.golden,
        "seconds": round(model.seconds, 3),
    }
    if model.ready:
        logger.info("model ready", extra={**facts, "batching": model.batching})
    else:
        logger.error("model not ready", extra={**facts, "reason": model.reason})


def _padding(serving: Serving) -> dict[str, float]:
    wrong = [name for name, value in serving.padding.items() if isinstance(value, str)]
    if wrong:
        raise ModelError(f"serving.padding: input '{wrong[0]}' cannot be padded with text")
    return {name: float(value) for name, value in serving.padding.items()}


def _check_engine(session: Session) -> None:
    """What an engine process has loaded has proved itself there, or not."""
    if isinstance(session, RemoteSession) and session.reason is not None:
        raise ModelError(session.reason)


def _check_provider(session: Session, execution: Execution) -> None:
    required = execution.required_provider
    if required is not None and session.provider != required:
        raise ModelError(
            f"required execution provider {required} is not there: ONNX Runtime runs the model on {session.provider}"
        )


def _check_tensors(package: ModelPackage, session: Session) -> None:
    """The manifest must declare what the model really has: other hosts and clients rely on the manifest."""
    for role, declared, found in (
        ("inputs", package.inputs, session.inputs),
        ("outputs", package.outputs, session.outputs),
    ):
        if declared is None:
            continue
        said = {spec.name: (spec.datatype.name, len(spec.shape)) for spec in declared}
        real = {spec.name: (spec.datatype.name, len(spec.shape)) for spec in found.values()}
        if said != real:
            raise ModelError(f"the manifest's {role} (datatype, rank) are {said}, the model's are {real}")


# --------------------------------------------------------------------------------------------------------------------
# Golden answers
# --------------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Asked:
    """A golden request, decoded: ``inputs`` are the model's."""

    request: InferRequest
    inputs: Mapping[str, Array]


def _decode_golden(model: LoadedModel, golden: Sequence[GoldenRequest]) -> list[_Asked]:
    asked: list[_Asked] = []
    for index, item in enumerate(golden):
        try:
            request = decode_request(item.body, None, model.inputs, model.outputs)
            inputs = request.inputs if model.pipeline is None else model.pipeline.before(request.inputs)
        except RequestError as error:
            raise ModelError(f"golden request {index} is not one for this model: {error}") from error
        asked.append(_Asked(request, inputs))
    return asked


def _warm_up(session: ModelSession, samples: Sequence[Mapping[str, Array]], runs: int) -> None:
    """Run the model a few times: the first runs allocate memory, choose kernels and build engines."""
    outputs = list(session.outputs)
    inputs = samples[0] if samples else session.sample_inputs()
    for _ in range(runs):
        try:
            session.run(inputs, outputs)
        except Exception as error:
            if samples:
                raise ModelError(f"golden request 0 fails: {error}") from error
            # Zeros need not be valid inputs, and lengths may have to agree.
            logger.warning("warm-up with zeros failed", extra={"reason": str(error)[:200]})
            return


def _check_golden(model: LoadedModel, golden: Sequence[GoldenRequest], asked: Sequence[_Asked]) -> None:
    """Ask every golden request. Raises ``ModelError`` with the first difference."""
    for index, (item, question) in enumerate(zip(golden, asked, strict=True)):
        names = [str(output.get("name")) for output in item.outputs]
        unknown = [name for name in names if name not in model.outputs]
        if unknown:
            raise ModelError(f"golden answer {index} names unknown outputs: {', '.join(unknown)}")
        try:
            arrays = _answer(model, question.inputs, names)
        except RequestError as error:
            raise ModelError(f"golden request {index} is refused: {error}") from error
        for expected, name in zip(item.outputs, names, strict=True):
            difference = compare_tensors(expected, arrays[name], model.outputs[name].datatype, item.tolerance)
            if difference is not None:
                raise ModelError(f"golden answer {index} is not reproduced on {model.provider}: {difference}")


def _answer(model: LoadedModel, inputs: Mapping[str, Array], names: Sequence[str]) -> Mapping[str, Array]:
    session = model.session
    assert session is not None  # noqa: S101 - tells mypy what the caller has seen to
    sources = tuple(names) if model.pipeline is None else model.pipeline.sources(names)
    arrays = dict(zip(sources, session.run(inputs, sources), strict=True))
    return arrays if model.pipeline is None else model.pipeline.after(arrays)
