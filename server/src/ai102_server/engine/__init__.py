# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime sessions, the versions of models, and how many inferences run at a time."""

from __future__ import annotations

from ai102_server.engine.admission import Admission
from ai102_server.engine.loader import Loader, load_registry
from ai102_server.engine.registry import LoadedModel, Registry
from ai102_server.engine.session import ModelSession, prepare_providers

__all__ = [
    "Admission",
    "LoadedModel",
    "Loader",
    "ModelSession",
    "Registry",
    "load_registry",
    "prepare_providers",
]
