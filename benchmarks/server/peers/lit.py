# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""LitServe: two workers on the CPU, with its own batching where batching is asked for."""

from __future__ import annotations

from typing import Any

import litserve as ls
import numpy as np
from bench_session import BATCH, BATCH_SECONDS, PORT, WORKERS, load_session

DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


class Model(ls.LitAPI):
    """The model, a request at a time."""

    def setup(self, device: str) -> None:  # noqa: ARG002 (LitServe passes it)
        """Load the model."""
        self.session = load_session()
        self.inputs = {item.name: DTYPES[item.type] for item in self.session.get_inputs()}

    # LitServe makes an endpoint from annotations; without one it reads the body as JSON.
    def decode_request(self, request):
        """Take the inputs by their names."""
        return {name: np.array(request[name], dtype) for name, dtype in self.inputs.items()}

    def predict(self, x: Any) -> Any:
        """Run the model."""
        return self.session.run(None, x)[0]

    def encode_response(self, output):
        """Answer with nested lists."""
        return {"outputs": output.tolist()}


class BatchingModel(Model):
    """The model, several requests at a time."""

    def batch(self, inputs: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Join requests."""
        return {name: np.concatenate([item[name] for item in inputs]) for name in self.inputs}

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        """Take answers apart."""
        return list(output[:, None])


if __name__ == "__main__":
    api = BatchingModel(max_batch_size=BATCH, batch_timeout=BATCH_SECONDS) if BATCH else Model()
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=WORKERS, fast_queue=True)
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="warning", num_api_servers=1)
