# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Conformance: the official clients, and the tests of the ``onnx`` package, through a running server.

- ``python -m conformance.clients`` (in ``tests/``, with ``src`` and ``tests`` on the path): ``tritonclient``, and
  KServe's client with ``--kserve-python``.
- ``python -m conformance.nodes``: the node tests of the ``onnx`` package, in JSON and in binary form.

Subsets run with the other tests (``test_conformance.py``).
"""
