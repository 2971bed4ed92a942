# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The models of this worker, by name and version. A model that is not ready keeps its place with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from ai102_server.codec import TensorSpec
from ai102_server.codec.datatypes import Array
from ai102_server.engine.batching import Batcher
from ai102_server.engine.planning import Runner
from ai102_server.errors import RequestError
from ai102_server.repository import ModelPackage, version_key

__all__ = ["PLATFORM", "LoadedModel", "Pipeline", "Registry", "Session"]

PLATFORM: Final = "onnxruntime_onnx"


class Session(Runner, Protocol):
    """A loaded model, in this process or in an engine process."""

    @property
    def problem(self) -> str | None:
        """Why it cannot run now, though it was loaded; None when it can."""


@dataclass(frozen=True)
class LoadedModel:
    """A model version. ``failure`` says why it was not loaded; ``session`` may be there all the same (wrong provider).

    ``run`` queues and batches requests; None when the model is not ready. ``batching`` says in words how it does, and
    why.
    """

    name: str
    version: str
    package: ModelPackage | None
    session: Session | None
    failure: str | None
    golden: int = 0
    seconds: float = 0.0
    run: Batcher | None = None
    batching: str = ""
    pipeline: Pipeline | None = None
    tags: frozenset[str] = frozenset()

    @property
    def reason(self) -> str | None:
        """Why it is not ready; None when it is."""
        if self.failure is not None or self.session is None:
            return self.failure
        return self.session.problem

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return self.reason is None

    @property
    def provider(self) -> str | None:
        """The execution provider the session really has; None without a session."""
        return self.session.provider if self.session is not None else None

    @property
    def sha256(self) -> str | None:
        """SHA-256 (hex) of the model; None without a package."""
        return self.package.model_sha256 if self.package is not None else None

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

    def sources(self, names: Iterable[str]) -> tuple[str, ...]:
        """The model's outputs that these outputs of the client are made of."""

    def after(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """The client's outputs of the model's."""


class Registry:
    """Looks up models. Immutable, so it is read without a lock."""

    def __init__(self, models: Iterable[LoadedModel]) -> None:
        self._models: dict[str, dict[str, LoadedModel]] = {}
        for model in models:
            self._models.setdefault(model.name, {})[model.version] = model
        self._latest = {
            name: max(versions.values(), key=lambda model: version_key(model.version))
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
        return sorted(self._models.get(name, {}), key=version_key)

    def find(self, name: str, version: str) -> LoadedModel | None:
        """The model in this version; None when there is none."""
        return self._models.get(name, {}).get(version)

    def lookup(self, name: str, version: str | None) -> LoadedModel | None:
        """The model in this version, or in the latest one; None when there is none."""
        return self._latest.get(name) if version is None else self._models.get(name, {}).get(version)

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
            message = f"model '{name}' version '{model.version}' is not ready: {model.reason}"
            raise RequestError(503, message, reason="not_ready")
        return model
