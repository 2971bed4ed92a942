# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Inference server for ONNX models that speaks the Open Inference Protocol (V2).

The parts, each of which can be read alone:

- ``config``: the configuration file and its checks,
- ``repository``: model packages on disk (manifest, hashes, signature, encryption, golden answers), and which to serve,
- ``pipeline``: pre- and post-processing that packages declare,
- ``engine``: ONNX Runtime sessions, batches, admission of requests,
- ``codec``: V2 tensors in JSON and binary form,
- ``api``: the HTTP API and the page,
- ``access``: accounts, tokens, policy, limits, audit log,
- ``privacy``: masking, salted hashes, sealed fields,
- ``telemetry``: metrics, logs, traces,
- ``quantisation``: INT8 models with a report of what that costs,
- ``serving``: the process model, sockets, systemd,
- ``threads``: how many of the threads that take requests compete,
- ``cli``: the command line.
"""

from __future__ import annotations

import os

# ONNX Runtime reports its use to its makers unless it is told not to, and reads this when it is loaded. A server for
# closed networks tells nobody anything; who wants it sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Nothing here multiplies matrices with numpy, and threads that it starts would not survive the fork of the workers.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__all__ = ["__version__"]

__version__ = "0.1.0"
