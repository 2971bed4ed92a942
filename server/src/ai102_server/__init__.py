# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Inference server for ONNX models that speaks the Open Inference Protocol (V2).

The parts, each of which can be read alone:

- ``config``: the configuration file and its checks,
- ``repository``: model packages on disk (manifest, hashes, signature, golden answers),
- ``engine``: ONNX Runtime sessions, versions, admission of requests,
- ``codec``: V2 tensors in JSON and binary form,
- ``api``: the HTTP API,
- ``telemetry``: metrics and logs,
- ``serving``: the process model, sockets, systemd,
- ``cli``: the command line.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
