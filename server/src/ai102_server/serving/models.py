# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Which models should be served, and what operators can do about it."""

from __future__ import annotations

from collections.abc import Sequence

from ai102_server.config import Config
from ai102_server.errors import ModelError, RequestError
from ai102_server.repository.store import Desired, rollback, survey, unpin
from ai102_server.serving.control import Coordinator

__all__ = ["change_models", "wanted_models"]


def wanted_models(config: Config) -> Sequence[Desired]:
    """What configuration, store, policies and pins say. Raises ``ModelError`` when the store cannot be read."""
    return survey(config.store, config.models).desired


def change_models(coordinator: Coordinator, config: Config, what: str, name: str) -> None:
    """Load, unload or roll back (``what``) a model.

    Raises:
        RequestError: 404 for an unknown model, 409 when it cannot be done, 422 when a model cannot be loaded.

    """
    try:
        if what == "load":
            if config.store.state is not None:
                unpin(config.store, name)
            coordinator.load(name)
        elif what == "unload":
            coordinator.unload(name)
        else:
            rollback(config.store, name, config.models)
            coordinator.refresh()
    except ModelError as error:
        raise RequestError(409, str(error)) from error
