# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The service: models, admission and metrics of one process put together, independent of HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from ai102_server import __version__
from ai102_server.config import Config, ModelRef
from ai102_server.engine import Admission, LoadedModel, Loader, Registry
from ai102_server.engine.registry import PLATFORM
from ai102_server.serving.control import Coordinator, Failures, WorkerLink
from ai102_server.telemetry import Metrics

__all__ = ["Service"]

EXTENSIONS: Final = ("binary_tensor_data",)


class _Alone:
    """A service that has no other processes to agree with."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def prepare(self, refs: Sequence[ModelRef]) -> Callable[[], Failures]:
        failed = self._service.prepare(refs)
        return lambda: failed

    def activate(self, refs: Sequence[ModelRef]) -> Callable[[], None]:
        self._service.activate(refs)
        return lambda: None


class Service:
    """What the HTTP API answers from. ``draining`` is set once, when the process is about to stop."""

    def __init__(
        self, config: Config, registry: Registry, *, loader: Loader | None = None, link: WorkerLink | None = None
    ) -> None:
        self.config: Final = config
        self.registry = registry
        self.admission: Final = Admission(config.plan_admitted())
        self.draining = False
        self.metrics: Final = Metrics(
            registry, config.release, inflight=lambda: self.admission.inflight, ready=lambda: self.ready
        )
        self._loader: Final = loader
        self._link: Final = link
        self._prepared: dict[ModelRef, LoadedModel] = {}
        self._coordinator: Final = Coordinator(config.models, lambda: [_Alone(self)], lambda: config.models)

    @classmethod
    def load(cls, config: Config, *, worker: int = 0, link: WorkerLink | None = None) -> Service:
        """Load every model and build the service; models that fail are not ready, with the reason.

        Args:
            config: What to serve and how.
            worker: Number of this process; it takes the GPU of that number.
            link: Connection to the supervisor; without one, this process changes its models by itself.

        """
        devices = config.execution.devices
        loader = Loader(config, devices[worker % len(devices)])
        return cls(config, Registry(loader.load(ref) for ref in config.models), loader=loader, link=link)

    # Models that come and go -------------------------------------------------------------------------------------
    def prepare(self, refs: Sequence[ModelRef]) -> Failures:
        """Load what is not served yet, beside what is served. Returns what failed."""
        failed: Failures = {}
        for ref in refs:
            if ref in self._prepared or self._served(ref) or self._loader is None:
                continue
            model = self._loader.load(ref)
            if model.ready:
                self._prepared[ref] = model
            else:
                failed[ref.name, ref.version] = model.reason or ""
        return failed

    def activate(self, refs: Sequence[ModelRef]) -> None:
        """Serve exactly these, from one moment to the next. Requests in flight end with the models they began with."""
        models: list[LoadedModel] = []
        for ref in refs:
            model = self._prepared.get(ref) or self.registry.find(ref.name, ref.version)
            if model is not None:
                models.append(model)
        self.registry = Registry(models)
        self._prepared.clear()

    def _served(self, ref: ModelRef) -> bool:
        model = self.registry.find(ref.name, ref.version)
        return model is not None and model.ready

    def load_model(self, name: str) -> None:
        """Serve a model again, or try again what failed. Raises ``RequestError`` (404, 500)."""
        if self._link is not None:
            self._link.ask("load", name=name)
        else:
            self._coordinator.load(name)

    def unload_model(self, name: str) -> None:
        """Stop serving a model. Raises ``RequestError`` (404)."""
        if self._link is not None:
            self._link.ask("unload", name=name)
        else:
            self._coordinator.unload(name)

    @property
    def ready(self) -> bool:
        """Whether traffic should be sent here."""
        return self.registry.ready and not self.draining

    def problems(self) -> list[str]:
        """One line for each model that is not ready."""
        return [f"{model.name} {model.version}: {model.reason}" for model in self.registry if not model.ready]

    def readiness(self) -> dict[str, Any]:
        """The document of ``/v2/health/ready``."""
        return {
            "ready": self.ready,
            "draining": self.draining,
            "release": self.config.release,
            "models": [
                {
                    "name": model.name,
                    "version": model.version,
                    "ready": model.ready,
                    "provider": model.provider,
                    "reason": model.reason,
                }
                for model in self.registry
            ],
        }

    def server_metadata(self) -> dict[str, Any]:
        """The document of ``/v2``."""
        return {
            "name": "ai102-server",
            "version": __version__,
            "extensions": list(EXTENSIONS),
            "release": self.config.release,
        }

    def model_metadata(self, model: LoadedModel) -> dict[str, Any]:
        """The document of ``/v2/models/<model>``. ``model`` must have a session."""
        manifest = model.package.manifest if model.package is not None else {}
        return {
            "name": model.name,
            "versions": self.registry.versions(model.name),
            "platform": PLATFORM,
            "inputs": [spec.to_json() for spec in model.inputs.values()],
            "outputs": [spec.to_json() for spec in model.outputs.values()],
            "parameters": {
                "version": model.version,
                "provider": model.provider,
                "release": self.config.release,
                "sha256": model.package.model_sha256 if model.package is not None else None,
                "signed": model.package.signed if model.package is not None else False,
                "golden_answers": model.golden,
                "batching": model.batching,
                "licence": manifest.get("licence"),
            },
        }

    def repository_index(self, ready_only: bool) -> list[dict[str, Any]]:
        """The document of ``/v2/repository/index``."""
        return [
            {
                "name": model.name,
                "version": model.version,
                "state": "READY" if model.ready else "UNAVAILABLE",
                "reason": model.reason or "",
            }
            for model in self.registry
            if model.ready or not ready_only
        ]
