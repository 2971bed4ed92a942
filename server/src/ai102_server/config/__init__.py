# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The configuration file: what may stand in it, and messages that say how to mend what is wrong.

All mistakes are reported at once. Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import yaml

from ai102_server.config.access import AccessConfig, read_access
from ai102_server.config.execution import NVIDIA, Batching, Execution, processors, read_batching, read_execution
from ai102_server.config.privacy import Privacy, read_privacy
from ai102_server.config.reader import (
    MISSING,
    Section,
    kind_of,
    to_choice,
    to_component,
    to_count,
    to_flag,
    to_integer,
    to_mode,
    to_path,
    to_seconds,
    to_text,
    to_version,
)
from ai102_server.config.store import Store, read_store
from ai102_server.config.telemetry import Log, Tracing, read_log, read_tracing
from ai102_server.errors import ConfigError

__all__ = [
    "AccessConfig",
    "Batching",
    "Config",
    "Execution",
    "Limits",
    "Listen",
    "Log",
    "ModelRef",
    "Privacy",
    "Store",
    "Tls",
    "Tracing",
    "load_config",
    "parse_config",
]

START_POLICIES: Final = ("strict", "degraded")
TLS_VERSIONS: Final = ("1.2", "1.3")
MAX_PORT: Final = 65535


@dataclass(frozen=True)
class Tls:
    """Certificate of the server and, when ``client_ca`` is given, who may call: mutual TLS is then mandatory."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    minimum_version: str = "1.3"


@dataclass(frozen=True)
class Listen:
    """Where the server listens: ``host`` and ``port``, or the Unix socket ``uds``.

    A socket handed over by systemd (``LISTEN_FDS``) takes the place of either; TLS still applies.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    uds: Path | None = None
    uds_mode: int = 0o660
    backlog: int = 1024
    tls: Tls | None = None


@dataclass(frozen=True)
class ModelRef:
    """A model version to serve, and the directory of its package."""

    name: str
    version: str
    path: Path


@dataclass(frozen=True)
class Limits:
    """What one request may cost, and how long the last ones may take when the server stops.

    ``max_batch`` is the largest number of rows of one request. ``queue`` requests of one model may wait in each worker,
    each for ``queue_seconds``. ``allow_nan``: inputs may hold NaN and infinities. Answers of ``compress_from`` bytes
    and more are compressed for clients that accept it; 0: none are.
    """

    max_body_bytes: int = 32 * 1024 * 1024
    max_batch: int = 1024
    allow_nan: bool = True
    queue: int = 64
    queue_seconds: float = 30.0
    compress_from: int = 0
    drain_notice_seconds: float = 0.0
    drain_seconds: float = 20.0


@dataclass(frozen=True)
class Config:
    """The whole configuration. ``workers`` processes answer, and each runs ``threads`` inferences of a model at a time.

    None for either: as the processors allow, see ``plan_workers`` and ``plan_threads``.

    ``release`` is shown in health, metadata and metrics. When the file does not say it, it is the directory of the file
    below ``releases/``.
    """

    listen: Listen
    models: tuple[ModelRef, ...]
    workers: int | None = None
    threads: int | None = None
    start: str = "strict"
    model_signing_public_key: Path | None = None
    execution: Execution = field(default_factory=Execution)
    batching: Batching = field(default_factory=Batching)
    limits: Limits = field(default_factory=Limits)
    log: Log = field(default_factory=Log)
    privacy: Privacy = field(default_factory=Privacy)
    tracing: Tracing = field(default_factory=Tracing)
    store: Store = field(default_factory=Store)
    access: AccessConfig = field(default_factory=AccessConfig)
    release: str | None = None

    def plan_workers(self) -> int:
        """Worker processes: as said; else some for each GPU, or one for each group of processors that runs a model.

        Python runs in one thread of a process at a time, so one process cannot use many processors. A GPU has one
        worker when that holds its sessions, and up to four when they share an engine process, which has a processor for
        itself. Without GPUs, more than eight only cost memory: each holds the models.
        """
        if self.workers is not None:
            return self.workers
        if not NVIDIA.isdisjoint(self.execution.providers):
            gpus = len(self.execution.gpus())
            each = processors() // gpus - 1 if self.execution.engine_processes else 1
            return gpus * max(1, min(4, each))
        return max(1, min(8, processors() // max(1, self.execution.intra_op_threads)))

    def plan_threads(self) -> int:
        """Inferences of one model that a worker runs at a time: as said; else so that all workers use all processors.

        Two for each GPU: one computes while the data of the other travel.
        """
        if self.threads is not None:
            return self.threads
        if not NVIDIA.isdisjoint(self.execution.providers):
            return 2
        share = processors() / (self.plan_workers() * max(1, self.execution.intra_op_threads))
        return max(1, math.ceil(share))

    def plan_admitted(self) -> int:
        """Inference requests that may be inside a worker at the same time: those that run and those that may wait."""
        return self.plan_threads() + self.limits.queue


def _tls(parent: Section) -> Tls | None:
    section = parent.section("tls")
    if not parent.has("tls"):
        return None
    nowhere = Path("/")
    tls = Tls(
        certificate=section.require("certificate", nowhere, to_path, "path of the certificate chain (PEM)"),
        key=section.require("key", nowhere, to_path, "path of the private key (PEM)"),
        client_ca=section.get("client_ca", None, to_path),
        minimum_version=section.get("minimum_version", "1.3", to_choice(TLS_VERSIONS)),
    )
    section.finish()
    return tls


def _listen(root: Section) -> Listen:
    section = root.section("listen")
    default = Listen()
    listen = Listen(
        host=section.get("host", default.host, to_text),
        port=section.get("port", default.port, to_integer(0, MAX_PORT)),
        uds=section.get("uds", None, to_path),
        uds_mode=section.get("uds_mode", default.uds_mode, to_mode),
        backlog=section.get("backlog", default.backlog, to_integer(1, MAX_PORT)),
        tls=_tls(section),
    )
    if not root.has("listen"):
        root.report("listen", "is missing: give host and port, or uds")
    elif listen.uds is not None and (section.has("host") or section.has("port")):
        section.report("uds", "cannot stand beside host and port: keep one of them")
    elif listen.uds is not None and listen.tls is not None:
        section.report("tls", "does not apply to a Unix socket: remove it, or listen on host and port")
    section.finish()
    return listen


def _models(root: Section) -> tuple[ModelRef, ...]:
    value = root.raw("models")
    if value is MISSING:
        if not root.section("store").has("path"):
            hint = "list the models to serve, each with name, version and path, or name a directory in store.path"
            root.report("models", f"is missing: {hint}")
        return ()
    if not isinstance(value, list):
        root.report("models", f"must be a list, not {kind_of(value)}")
        return ()
    models: list[ModelRef] = []
    for index, item in enumerate(value):
        section = Section(item, f"models[{index}]", root.problems)
        model = ModelRef(
            name=section.require("name", "", to_component, "name under which the model is asked"),
            version=section.require("version", "", to_version, "version of the model, as text"),
            path=section.require("path", Path("/"), to_path, "directory of the model's package"),
        )
        section.finish()
        if any((model.name, model.version) == (other.name, other.version) for other in models):
            section.report("", f"model '{model.name}' version '{model.version}' is listed twice")
        models.append(model)
    return tuple(models)


def _limits(root: Section) -> Limits:
    section = root.section("limits")
    default = Limits()
    limits = Limits(
        max_body_bytes=section.get("max_body_bytes", default.max_body_bytes, to_integer(1024, 1 << 31)),
        max_batch=section.get("max_batch", default.max_batch, to_integer(1, 1 << 20)),
        allow_nan=section.get("allow_nan", default.allow_nan, to_flag),
        compress_from=section.get("compress_from", default.compress_from, to_integer(0, 1 << 31)),
        queue=section.get("queue", default.queue, to_integer(0, 4096)),
        queue_seconds=section.get("queue_seconds", default.queue_seconds, to_seconds(0.001, 3600)),
        drain_notice_seconds=section.get("drain_notice_seconds", default.drain_notice_seconds, to_seconds(0, 600)),
        drain_seconds=section.get("drain_seconds", default.drain_seconds, to_seconds(1, 3600)),
    )
    section.finish()
    return limits


def parse_config(document: object, source: str = "configuration") -> Config:
    """Check a parsed document and return the configuration.

    Raises ``ConfigError`` with every mistake found.
    """
    problems: list[str] = []
    root = Section(document, "", problems)
    config = Config(
        listen=_listen(root),
        models=_models(root),
        workers=root.get("workers", None, to_count),
        threads=root.get("threads", None, to_count),
        start=root.get("start", Config.start, to_choice(START_POLICIES)),
        model_signing_public_key=root.get("model_signing_public_key", None, to_path),
        execution=read_execution(root.section("execution")),
        batching=read_batching(root.section("batching")),
        limits=_limits(root),
        log=read_log(root.section("log")),
        privacy=read_privacy(root.section("privacy")),
        tracing=read_tracing(root.section("tracing")),
        store=read_store(root.section("store")),
        access=read_access(root.section("access")),
        release=root.get("release", None, to_text),
    )
    root.finish()
    if problems:
        raise ConfigError(source, problems)
    return config


def load_config(path: str | os.PathLike[str]) -> Config:
    """Read and check the YAML file at ``path``. Raises ``ConfigError``."""
    source = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise ConfigError(source, [f"cannot be read: {reason}"]) from error
    try:
        document: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(source, [f"is not valid YAML: {error}"]) from error
    config = parse_config(document, source)
    if config.release is None:
        config = replace(config, release=_release_of(Path(path)))
    return config


def _release_of(path: Path) -> str | None:
    """Release a file belongs to: ``<id>`` of ``…/releases/<id>/config.yml``, also when it is reached by a link.

    A release named after a hash of its content cannot have its own name in its configuration.
    """
    directory = path.resolve().parent
    return directory.name if directory.parent.name == "releases" else None
