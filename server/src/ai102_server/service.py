# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The service: models, admission and metrics of one process put together, independent of HTTP."""

from __future__ import annotations

from typing import Any, Final

from ai102_server import __version__
from ai102_server.config import Config
from ai102_server.engine import Admission, LoadedModel, Registry, load_registry
from ai102_server.engine.registry import PLATFORM
from ai102_server.telemetry import Metrics

__all__ = ["Service"]

EXTENSIONS: Final = ("binary_tensor_data",)


class Service:
    """What the HTTP API answers from. ``draining`` is set once, when the process is about to stop."""

    def __init__(self, config: Config, registry: Registry) -> None:
        self.config: Final = config
        self.registry: Final = registry
        self.admission: Final = Admission(config.threads, config.limits.queue)
        self.draining = False
        self.metrics: Final = Metrics(
            registry, config.release, inflight=lambda: self.admission.inflight, ready=lambda: self.ready
        )

    @classmethod
    def load(cls, config: Config) -> Service:
        """Load every model and build the service; models that fail are not ready, with the reason."""
        return cls(config, load_registry(config))

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
        session = model.session
        manifest = model.package.manifest if model.package is not None else {}
        return {
            "name": model.name,
            "versions": self.registry.versions(model.name),
            "platform": PLATFORM,
            "inputs": [spec.to_json() for spec in session.inputs.values()] if session is not None else [],
            "outputs": [spec.to_json() for spec in session.outputs.values()] if session is not None else [],
            "parameters": {
                "version": model.version,
                "provider": model.provider,
                "release": self.config.release,
                "sha256": model.package.model_sha256 if model.package is not None else None,
                "signed": model.package.signed if model.package is not None else False,
                "golden_answers": model.golden,
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
