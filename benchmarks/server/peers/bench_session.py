# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all peers share: the session with the options of the benchmark, and what run.py tells them."""

from __future__ import annotations

import os

import onnxruntime as ort

PORT = int(os.environ.get("BENCH_PORT", "8000"))
NAME = os.environ.get("BENCH_NAME", "tiny")
WORKERS = int(os.environ.get("BENCH_WORKERS", "2"))
BATCH = int(os.environ.get("BENCH_BATCH", "0"))  # the largest batch; 0: no batching
BATCH_SECONDS = 0.005


def load_session() -> ort.InferenceSession:
    """Load the model."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return ort.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
