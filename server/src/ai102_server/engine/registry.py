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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ai102_server.codec import decode_request
from ai102_server.config import Config, Execution, ModelRef
from ai102_server.engine.session import ModelSession, prepare_providers
from ai102_server.errors import ModelError, RequestError
from ai102_server.repository import (
    GoldenRequest,
    ModelPackage,
    compare_tensors,
    load_golden,
    load_public_key,
    open_package,
)

__all__ = ["LoadedModel", "Registry", "check_golden", "load_model", "load_registry"]

logger = logging.getLogger(__name__)

PLATFORM: Final = "onnxruntime_onnx"


@dataclass(frozen=True)
class LoadedModel:
    """A model version. ``reason`` says why it is not ready; ``session`` may be there all the same (wrong provider)."""

    name: str
    version: str
    package: ModelPackage | None
    session: ModelSession | None
    reason: str | None
    golden: int = 0
    seconds: float = 0.0

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return self.reason is None

    @property
    def provider(self) -> str | None:
        """The execution provider the session really has; None without a session."""
        return self.session.provider if self.session is not None else None


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

    def get_ready(self, name: str, version: str | None = None) -> tuple[LoadedModel, ModelSession]:
        """As ``get``, and raises ``RequestError`` (503) when the model is not ready."""
        model = self.get(name, version)
        if model.session is None or model.reason is not None:
            raise RequestError(503, f"model '{name}' version '{model.version}' is not ready: {model.reason}")
        return model, model.session


def _version_key(version: str) -> list[tuple[int, int, str]]:
    """Sorts 1, 2, 10, and 1.9 before 1.10."""
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.findall(r"\d+|[^\d]+", version)]


def load_registry(config: Config) -> Registry:
    """Load every configured model. Never raises for a model: what fails is kept, not ready, with the reason."""
    prepare_providers(config.execution)
    public_key: Ed25519PublicKey | None = None
    problem: str | None = None
    if config.model_signing_public_key is not None:
        try:
            public_key = load_public_key(config.model_signing_public_key)
        except ModelError as error:
            problem = str(error)
    models: list[LoadedModel] = []
    for ref in config.models:
        if problem is not None:
            model = LoadedModel(ref.name, ref.version, None, None, problem)
        else:
            model = load_model(ref, config.execution, public_key)
        models.append(model)
        facts = {
            "model": model.name,
            "version": model.version,
            "provider": model.provider,
            "golden": model.golden,
            "seconds": round(model.seconds, 3),
        }
        if model.ready:
            logger.info("model ready", extra=facts)
        else:
            logger.error("model not ready", extra={**facts, "reason": model.reason})
    return Registry(models)


def load_model(ref: ModelRef, execution: Execution, public_key: Ed25519PublicKey | None) -> LoadedModel:
    """Verify, load, warm up and check one model."""
    started = time.perf_counter()
    package: ModelPackage | None = None
    session: ModelSession | None = None
    golden: tuple[GoldenRequest, ...] = ()
    reason: str | None = None
    try:
        package = open_package(ref.path, ref.name, ref.version, public_key)
        golden = () if package.golden_file is None else load_golden(package.golden_file)
        session = ModelSession(package.model_file, execution)
        _check_provider(session, execution)
        _check_tensors(package, session)
        _warm_up(session, golden, execution.warmup_runs)
        check_golden(session, golden)
    except ModelError as error:
        reason = str(error)
    except Exception as error:
        # A broken model must not take the others down, whatever a library raises.
        logger.exception("unexpected error while loading a model", extra={"model": ref.name, "version": ref.version})
        reason = f"unexpected {type(error).__name__}, see the log"
    return LoadedModel(ref.name, ref.version, package, session, reason, len(golden), time.perf_counter() - started)


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
