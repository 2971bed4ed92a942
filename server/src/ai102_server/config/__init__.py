# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The configuration file: what may stand in it, and messages that say how to mend what is wrong.

All mistakes are reported at once. Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import yaml

from ai102_server.config.reader import (
    MISSING,
    Section,
    kind_of,
    to_choice,
    to_component,
    to_flag,
    to_integer,
    to_mode,
    to_path,
    to_seconds,
    to_text,
    to_version,
)
from ai102_server.errors import ConfigError

__all__ = [
    "Config",
    "Execution",
    "Limits",
    "Listen",
    "Log",
    "ModelRef",
    "Tls",
    "load_config",
    "parse_config",
]

GRAPH_OPTIMISATION: Final = ("disabled", "basic", "extended", "all")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
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
class Execution:
    """How ONNX Runtime runs the models."""

    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    required_provider: str | None = None
    intra_op_threads: int = 1
    inter_op_threads: int = 1
    allow_spinning: bool = False
    graph_optimisation: str = "all"
    provider_options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    warmup_runs: int = 2


@dataclass(frozen=True)
class Limits:
    """What one request may cost, and how long the last ones may take when the server stops."""

    max_body_bytes: int = 32 * 1024 * 1024
    queue: int = 64
    drain_notice_seconds: float = 0.0
    drain_seconds: float = 20.0


@dataclass(frozen=True)
class Log:
    """What is logged. ``access`` switches the line for each inference request; failed ones are always logged."""

    level: str = "info"
    access: bool = True


@dataclass(frozen=True)
class Config:
    """The whole configuration. ``threads`` is the number of inferences that may run at the same time.

    ``release`` is shown in health, metadata and metrics. When the file does not say it, it is the directory of the file
    below ``releases/``.
    """

    listen: Listen
    models: tuple[ModelRef, ...]
    threads: int = 4
    start: str = "strict"
    model_signing_public_key: Path | None = None
    execution: Execution = field(default_factory=Execution)
    limits: Limits = field(default_factory=Limits)
    log: Log = field(default_factory=Log)
    release: str | None = None


def _provider(value: object) -> str:
    text = to_text(value)
    if not text.endswith("ExecutionProvider"):
        raise ValueError(f"'{text}' is not an execution provider; write it in full, such as 'CUDAExecutionProvider'")
    return text


def _providers(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("must be a list of execution providers, the preferred one first")
    names = tuple(_provider(item) for item in value)
    if len(set(names)) != len(names):
        raise ValueError("names an execution provider twice")
    return names


def _provider_options(value: object) -> Mapping[str, Mapping[str, str]]:
    if not isinstance(value, dict):
        raise ValueError(f"must map execution providers to their options, not {kind_of(value)}")
    result: dict[str, dict[str, str]] = {}
    for name, options in value.items():
        if not isinstance(options, dict):
            raise ValueError(f"options of '{name}' must be a mapping, not {kind_of(options)}")
        result[_provider(name)] = {str(key): _option(str(key), item) for key, item in options.items()}
    return result


def _option(key: str, value: object) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, (str, int, float)):
        return str(value)
    raise ValueError(f"option '{key}' must be text, a number or true/false, not {kind_of(value)}")


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
        root.report("models", "is missing: list the models to serve, each with name, version and path")
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


def _execution(root: Section) -> Execution:
    section = root.section("execution")
    default = Execution()
    before = len(root.problems)
    execution = Execution(
        providers=section.get("providers", default.providers, _providers),
        required_provider=section.get("required_provider", None, _provider),
        intra_op_threads=section.get("intra_op_threads", default.intra_op_threads, to_integer(0, 1024)),
        inter_op_threads=section.get("inter_op_threads", default.inter_op_threads, to_integer(0, 1024)),
        allow_spinning=section.get("allow_spinning", default.allow_spinning, to_flag),
        graph_optimisation=section.get("graph_optimisation", default.graph_optimisation, to_choice(GRAPH_OPTIMISATION)),
        provider_options=section.get("provider_options", default.provider_options, _provider_options),
        warmup_runs=section.get("warmup_runs", default.warmup_runs, to_integer(0, 1000)),
    )
    # What was reported already would only be reported again in other words.
    if len(root.problems) == before:
        required = execution.required_provider
        if required is not None and required not in execution.providers:
            section.report("required_provider", f"'{required}' is not among providers: add it there")
        for name in execution.provider_options:
            if name not in execution.providers:
                section.report("provider_options", f"'{name}' is not among providers: add it there or remove it here")
    section.finish()
    return execution


def _limits(root: Section) -> Limits:
    section = root.section("limits")
    default = Limits()
    limits = Limits(
        max_body_bytes=section.get("max_body_bytes", default.max_body_bytes, to_integer(1024, 1 << 31)),
        queue=section.get("queue", default.queue, to_integer(0, 4096)),
        drain_notice_seconds=section.get("drain_notice_seconds", default.drain_notice_seconds, to_seconds(0, 600)),
        drain_seconds=section.get("drain_seconds", default.drain_seconds, to_seconds(1, 3600)),
    )
    section.finish()
    return limits


def _log(root: Section) -> Log:
    section = root.section("log")
    default = Log()
    log = Log(
        level=section.get("level", default.level, to_choice(LOG_LEVELS)),
        access=section.get("access", default.access, to_flag),
    )
    section.finish()
    return log


def parse_config(document: object, source: str = "configuration") -> Config:
    """Check a parsed document and return the configuration.

    Raises ``ConfigError`` with every mistake found.
    """
    problems: list[str] = []
    root = Section(document, "", problems)
    config = Config(
        listen=_listen(root),
        models=_models(root),
        threads=root.get("threads", Config.threads, to_integer(1, 1024)),
        start=root.get("start", Config.start, to_choice(START_POLICIES)),
        model_signing_public_key=root.get("model_signing_public_key", None, to_path),
        execution=_execution(root),
        limits=_limits(root),
        log=_log(root),
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
