# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""BentoML: a service of two workers; a batchable API takes one tensor, so the encoder's two are stacked."""

from __future__ import annotations

import bentoml
import numpy as np
from bench_session import BATCH, NAME, WORKERS, load_session

# Requests that would take longer than the latency given are refused: 100 ms, as in its examples, refuses half of them.
OPTIONS = {"batchable": True, "max_batch_size": BATCH, "max_latency_ms": 2000} if BATCH else {}


@bentoml.service(workers=WORKERS, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Service:
    """One worker."""

    def __init__(self) -> None:
        self.session = load_session()
        self.encoder = NAME == "minilm"
        self.name = self.session.get_inputs()[0].name
        self.dtype = np.int64 if self.encoder else np.float32

    @bentoml.api(route="/predict", **OPTIONS)
    def predict(self, x: np.ndarray) -> np.ndarray:
        """Run the model; ``x`` of the encoder holds ids and mask: [n, 2, length]."""
        x = x.astype(self.dtype, copy=False)
        feed = {"input_ids": x[:, 0], "attention_mask": x[:, 1]} if self.encoder else {self.name: x}
        return self.session.run(None, feed)[0]
