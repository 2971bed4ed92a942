# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The service of one process: models, access control, admission and telemetry put together, independent of HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from ai102_server import __version__
from ai102_server.access import Access, AccessShared
from ai102_server.config import Config, ModelRef
from ai102_server.engine import Admission, LoadedModel, Loader, Registry
from ai102_server.engine.process.link import EngineLink
from ai102_server.engine.registry import PLATFORM
from ai102_server.errors import ModelError
from ai102_server.repository.package import MANIFEST
from ai102_server.repository.serving import read_serving
from ai102_server.serving.control import Coordinator, Failures, WorkerLink
from ai102_server.serving.models import change_models, wanted_models
from ai102_server.telemetry import Telemetry, TelemetryShared

__all__ = ["Service", "Shared"]

_COUNTED_EVENTS: Final = frozenset({"token.issued", "token.refused", "token.revoked", "locked", "denied", "limited"})
EXTENSIONS: Final = ("binary_tensor_data", "model_repository", "statistics", "model_configuration")


class Shared(NamedTuple):
    """What all processes share: figures, what limits callers, and engine processes.

    ``engines`` are their sockets by number of the GPU; none: each worker has the sessions.
    """

    telemetry: TelemetryShared
    access: AccessShared
    engines: Mapping[int, bytes]


class _Alone:
    """A service that has no other processes to agree with, as the coordinator sees it."""

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
        self,
        config: Config,
        *,
        worker: int = 0,
        link: WorkerLink | None = None,
        shared: Shared | None = None,
        registry: Registry | None = None,
    ) -> None:
        """Load every model; those that fail are not ready, with the reason.

        Args:
            config: What to serve and how.
            worker: Number of this process; it takes the GPU of that number.
            link: Connection to the supervisor; without one, this process changes its models by itself.
            shared: What all processes share; without it, this process counts alone.
            registry: Models that are loaded already; without it, those of the configuration are loaded.

        Raises:
            ServerError: Accounts, keys or policy cannot be used.

        """
        self.config: Final = config
        self.admission: Final = Admission(config.plan_admitted())
        self.draining = False
        self.access: Final = Access.load(config.access, None if shared is None else shared.access)
        figures = Telemetry.share(config, worker + 1) if shared is None else shared.telemetry
        self.telemetry: Final = Telemetry(config, figures, worker)
        self.access.audit.observe = self._count_event
        devices = config.execution.gpus()
        device = devices[worker % len(devices)]
        engine = None
        if shared is not None and shared.engines:
            engine = EngineLink(shared.engines[device], config.limits.queue_seconds)
        self._loader: Final = Loader(config, device, self.telemetry.executed, engine)
        self._link: Final = link
        self._prepared: dict[ModelRef, LoadedModel] = {}
        self._coordinator: Final = Coordinator(config.models, lambda: [_Alone(self)], lambda: wanted_models(config))
        self.registry = registry or Registry(self._loader.load(ref) for ref in config.models)
        for model in self.registry:
            self._register(model)
        self.telemetry.watch(
            inflight=lambda: self.admission.inflight,
            ready=lambda: self.ready,
            draining=lambda: self.draining,
            waiting=lambda: sum(model.run.waiting for model in self.registry if model.run is not None),
        )

    def close(self) -> None:
        """Write what is left of logs and traces, and end the threads."""
        self.telemetry.close()
        self.access.close()

    def _count_event(self, event: str) -> None:
        if event in _COUNTED_EVENTS:
            self.telemetry.counter("access_events", "Events of access control.", {"event": event}).inc()

    # Models that come and go -------------------------------------------------------------------------------------
    def prepare(self, refs: Sequence[ModelRef]) -> Failures:
        """Load what is not served yet, beside what is served. Returns what failed."""
        failed: Failures = {}
        for ref in refs:
            served = self.registry.find(ref.name, ref.version)
            if ref in self._prepared or (served is not None and served.ready):
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
        before = list(self.registry)
        for model in models:
            if self.registry.find(model.name, model.version) is not model:
                self._register(model)
        self.registry = Registry(models)
        for model in before:
            if self.registry.find(model.name, model.version) is None:
                self.telemetry.remove_model(model.name, model.version)
        self._prepared.clear()

    def _register(self, model: LoadedModel) -> None:
        self.telemetry.register_model(
            model.name, model.version, model.provider, model.sha256, model.ready, model.reason
        )

    def load_model(self, name: str) -> None:
        """Serve a model again as the policies say, after it was unloaded, rolled back, or failed.

        Raises:
            RequestError: 404 when there is no such model, 409 when what to serve cannot be found out, 422 when it
                cannot be loaded.

        """
        self._change("load", name)

    def unload_model(self, name: str) -> None:
        """Stop serving a model. Raises ``RequestError`` (404, 409)."""
        self._change("unload", name)

    def rollback_model(self, name: str) -> None:
        """Serve the version before the newest one that is served, also after a restart.

        Raises:
            RequestError: 409 when there is none, or nowhere to remember it.

        """
        self._change("rollback", name)

    def _change(self, what: str, name: str) -> None:
        if self._link is not None:
            self._link.ask(what, name=name)
        else:
            change_models(self._coordinator, self.config, what, name)

    def tags_in_store(self, name: str) -> frozenset[str]:
        """Tags of the versions of a model that should be served, loaded or not, as their manifests say.

        Nothing is verified: this decides who may ask for a model to be loaded, and loading verifies it.
        """
        tags: frozenset[str] = frozenset()
        try:
            for item in wanted_models(self.config):
                if item.name == name:
                    manifest = orjson.loads((item.path / MANIFEST).read_bytes())
                    tags |= read_serving(manifest.get("serving"), name).tags
        except (OSError, ValueError, AttributeError, ModelError):
            # It cannot be loaded either, and says why then.
            return tags
        return tags

    # What is asked -----------------------------------------------------------------------------------------------
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
        package = model.package
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
                "sha256": model.sha256,
                "signed": package.signed if package is not None else False,
                "encrypted": package.encrypted if package is not None else False,
                "golden_answers": model.golden,
                "batching": model.batching,
                "tags": sorted(model.tags),
                "licence": package.manifest.get("licence") if package is not None else None,
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

    def statistics(self, name: str | None = None, version: str | None = None) -> dict[str, Any]:
        """The document of ``/v2/models/stats``, of all processes. Raises ``RequestError`` (404)."""
        return self.telemetry.statistics(name, version)
