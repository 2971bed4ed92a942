# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The models of this server, by name and version, and how a model earns the right to be served.

A model is ready when its package is verified, its session runs on the required execution provider, and it has
reproduced its golden answers on it. A model that is not ready keeps its place with the reason.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ai102_server.codec import TensorSpec, decode_request
from ai102_server.codec.datatypes import Array
from ai102_server.config import Config, Execution, ModelRef
from ai102_server.engine.batching import Batcher, QueueLimits
from ai102_server.engine.planning import plan_batching
from ai102_server.engine.session import ModelSession, prepare_providers
from ai102_server.errors import ModelError, RequestError
from ai102_server.repository import (
    GoldenRequest,
    ModelPackage,
    compare_tensors,
    load_golden,
    load_public_keys,
    open_package,
)

__all__ = ["LoadedModel", "Loader", "Observe", "Pipeline", "Registry", "check_golden", "load_registry"]

logger = logging.getLogger(__name__)

PLATFORM: Final = "onnxruntime_onnx"


@dataclass(frozen=True)
class LoadedModel:
    """A model version. ``reason`` says why it is not ready; ``session`` may be there all the same (wrong provider).

    ``run`` queues and batches requests; None when the model is not ready. ``batching`` says in words how it does, and
    why.
    """

    name: str
    version: str
    package: ModelPackage | None
    session: ModelSession | None
    reason: str | None
    golden: int = 0
    seconds: float = 0.0
    run: Batcher | None = None
    batching: str = ""
    pipeline: Pipeline | None = None
    tags: frozenset[str] = frozenset()

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return self.reason is None

    @property
    def provider(self) -> str | None:
        """The execution provider the session really has; None without a session."""
        return self.session.provider if self.session is not None else None

    @property
    def inputs(self) -> dict[str, TensorSpec]:
        """Tensors that clients send: the pipeline's, else the model's; none without a session."""
        if self.pipeline is not None:
            return self.pipeline.inputs
        return self.session.inputs if self.session is not None else {}

    @property
    def outputs(self) -> dict[str, TensorSpec]:
        """Tensors that clients get."""
        if self.pipeline is not None:
            return self.pipeline.outputs
        return self.session.outputs if self.session is not None else {}


class Pipeline(Protocol):
    """Pre- and post-processing of a model, see ``ai102_server.pipeline``."""

    @property
    def inputs(self) -> dict[str, TensorSpec]:
        """Tensors that clients send."""

    @property
    def outputs(self) -> dict[str, TensorSpec]:
        """Tensors that clients get."""

    def before(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The model's inputs. Raises ``RequestError`` (400)."""

    def after(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """The client's outputs of the model's."""


class Registry:
    """Looks up models. Immutable, so it is read without a lock."""

    def __init__(self, models: Iterable[LoadedModel]) -> None:
        self._models: dict[str, dict[str, LoadedModel]] = {}
        for model in models:
            self._models.setdefault(model.name, {})[model.version] = model
        self._latest = {
            name: max(versions.values(), key=lambda model: _version_key(model.version))
            for name, versions in self._models.items()
        }

    def __iter__(self) -> Iterator[LoadedModel]:
        for versions in self._models.values():
            yield from versions.values()

    @property
    def ready(self) -> bool:
        """Whether every configured model is ready."""
        return all(model.ready for model in self)

    def versions(self, name: str) -> list[str]:
        """Versions of a model, oldest first."""
        return sorted(self._models.get(name, {}), key=_version_key)

    def find(self, name: str, version: str) -> LoadedModel | None:
        """The model in this version; None when there is none."""
        return self._models.get(name, {}).get(version)

    def get(self, name: str, version: str | None = None) -> LoadedModel:
        """The model in this version, or in the latest one. Raises ``RequestError`` (404)."""
        try:
            return self._latest[name] if version is None else self._models[name][version]
        except KeyError:
            pass
        if name not in self._models:
            raise RequestError(404, f"unknown model '{name[:100]}'")
        raise RequestError(
            404, f"model '{name}' has no version '{str(version)[:100]}'; there is: {', '.join(self.versions(name))}"
        )

    def get_ready(self, name: str, version: str | None = None) -> LoadedModel:
        """As ``get``, and raises ``RequestError`` (503) when the model is not ready."""
        model = self.get(name, version)
        if model.run is None:
            raise RequestError(503, f"model '{name}' version '{model.version}' is not ready: {model.reason}")
        return model


def _version_key(version: str) -> list[tuple[int, int, str]]:
    """Sorts 1, 2, 10, and 1.9 before 1.10."""
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.findall(r"\d+|[^\d]+", version)]


class Loader:
    """Loads models for one worker. ``device`` is the number of its GPU."""

    def __init__(self, config: Config, device: int = 0, observe: Observe | None = None) -> None:
        prepare_providers(config.execution)
        self._config: Final = config
        self._device: Final = device
        self._observe: Final = observe

    def load(self, ref: ModelRef) -> LoadedModel:
        """Verify, load, warm up and check one model. Never raises for a model: what fails is not ready, with reason."""
        started = time.perf_counter()
        package: ModelPackage | None = None
        session: ModelSession | None = None
        golden: tuple[GoldenRequest, ...] = ()
        run: Batcher | None = None
        reason: str | None = None
        batching = ""
        execution = self._config.execution
        try:
            package = open_package(ref.path, ref.name, ref.version, self._public_keys())
            golden = () if package.golden_file is None else load_golden(package.golden_file)
            session = ModelSession(package.model_file, execution, device=self._device, sha256=package.model_sha256)
            _check_provider(session, execution)
            _check_tensors(package, session)
            _warm_up(session, golden, execution.warmup_runs)
            check_golden(session, golden)
            run, batching = self._batcher(ref, session, golden)
        except ModelError as error:
            reason = str(error)
        except Exception as error:
            # A broken model must not take the others down, whatever a library raises.
            logger.exception(
                "unexpected error while loading a model", extra={"model": ref.name, "version": ref.version}
            )
            reason = f"unexpected {type(error).__name__}, see the log"
        seconds = time.perf_counter() - started
        model = LoadedModel(
            ref.name,
            ref.version,
            package,
            session,
            reason,
            len(golden),
            seconds,
            run if reason is None else None,
            batching,
        )
        _log(model)
        return model

    def _public_keys(self) -> Sequence[Ed25519PublicKey] | None:
        path = self._config.model_signing_public_key
        return None if path is None else load_public_keys(path)

    def _batcher(self, ref: ModelRef, session: ModelSession, golden: tuple[GoldenRequest, ...]) -> tuple[Batcher, str]:
        samples = [decode_request(item.body, None, session.inputs, session.outputs).inputs for item in golden]
        plan, reason = plan_batching(session, samples, self._config.batching, {})
        limits = QueueLimits(self._config.limits.queue, self._config.limits.queue_seconds)
        observe = None if self._observe is None else partial(self._observe, ref.name, ref.version)
        return Batcher(session.run, plan, self._config.plan_threads(), limits, observe), reason


Observe = Callable[[str, str, int, float], None]
"""Told of every run of a session: model, version, rows, seconds."""


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


def _check_provider(session: ModelSession, execution: Execution) -> None:
    required = execution.required_provider
    if required is not None and session.provider != required:
        raise ModelError(
            f"required execution provider {required} is not there: ONNX Runtime runs the model on {session.provider}"
        )


def _check_tensors(package: ModelPackage, session: ModelSession) -> None:
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


def _warm_up(session: ModelSession, golden: tuple[GoldenRequest, ...], runs: int) -> None:
    """Run the model a few times: the first runs allocate memory, choose kernels and build engines."""
    outputs = list(session.outputs)
    if golden:
        try:
            inputs = decode_request(golden[0].body, None, session.inputs, session.outputs).inputs
        except RequestError as error:
            raise ModelError(f"golden request 0 is not one for this model: {error}") from error
    else:
        inputs = session.sample_inputs()
    for _ in range(runs):
        try:
            session.run(inputs, outputs)
        except Exception as error:
            if golden:
                raise ModelError(f"golden request 0 fails: {error}") from error
            # Zeros need not be valid inputs, and lengths may have to agree.
            logger.warning("warm-up with zeros failed", extra={"reason": str(error)[:200]})
            return


def check_golden(session: ModelSession, golden: tuple[GoldenRequest, ...]) -> None:
    """Ask every golden request. Raises ``ModelError`` with the first difference."""
    for index, item in enumerate(golden):
        try:
            request = decode_request(item.body, None, session.inputs, session.outputs)
            names = [str(output.get("name")) for output in item.outputs]
            unknown = [name for name in names if name not in session.outputs]
            if unknown:
                raise ModelError(f"golden answer {index} names unknown outputs: {', '.join(unknown)}")
            arrays = session.run(request.inputs, names)
        except RequestError as error:
            raise ModelError(f"golden request {index} is refused: {error}") from error
        for expected, name, array in zip(item.outputs, names, arrays, strict=True):
            difference = compare_tensors(expected, array, session.outputs[name].datatype, item.tolerance)
            if difference is not None:
                raise ModelError(f"golden answer {index} is not reproduced on {session.provider}: {difference}")
