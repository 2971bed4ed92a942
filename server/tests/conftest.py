# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from toolkit import DOUBLING_GOLDEN, ServerProcess, Signer, doubling_model, echo_model, free_port, slow_model


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path)


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    """Packages that no test changes: doubling 1 and 10, echo 1, slow 1."""
    signer = Signer(tmp_path_factory.mktemp("packages"))
    for version in ("1", "10"):
        signer.package("doubling", version, doubling_model, DOUBLING_GOLDEN)
    signer.package("echo", "1", echo_model)
    signer.package("slow", "1", slow_model)
    return signer


def entry(signer: Signer, name: str, version: str = "1") -> dict[str, str]:
    return {"name": name, "version": version, "path": str(signer.root / "models" / name / version)}


@pytest.fixture(scope="session")
def base_config(packages: Signer) -> dict[str, Any]:
    """A configuration document with all models of ``packages``, and no TLS. Copy before changing."""
    return {
        "listen": {"host": "127.0.0.1", "port": 0},
        "workers": 1,
        "threads": 2,
        "models": [
            entry(packages, "doubling", "1"),
            entry(packages, "doubling", "10"),
            entry(packages, "echo"),
            entry(packages, "slow"),
        ],
        "model_signing_public_key": str(packages.public_key),
        "release": "r1",
    }


@pytest.fixture(autouse=True)
def log_levels() -> Iterator[None]:
    """Commands that run in the tests' process set the level of the log; it is as before after each test."""
    logger = logging.getLogger("ai102_server")
    before = logger.level
    yield
    logger.setLevel(before)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Start server processes; they are gone after the test."""
    servers: list[ServerProcess] = []

    def start_one(config: dict[str, Any], **options: Any) -> ServerProcess:
        config = dict(config)
        if config["listen"].get("port") == 0:
            config["listen"] = {**config["listen"], "port": free_port()}
        ready = options.pop("ready", True)
        server = ServerProcess(tmp_path / f"server{len(servers)}", config, **options)
        servers.append(server)
        if ready:
            server.wait_for("READY=1")
        return server

    yield start_one
    for server in servers:
        server.close()
