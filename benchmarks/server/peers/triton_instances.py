# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Triton through PyTriton: two instances, Triton's dynamic batching."""

from __future__ import annotations

import numpy as np
from bench_session import BATCH, NAME, PORT, WORKERS, load_session
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


def instance():
    """One instance with a session of its own."""
    session = load_session()
    outputs = [item.name for item in session.get_outputs()]

    @batch
    def infer(**inputs: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(outputs, session.run(outputs, inputs), strict=True))

    return infer, session


def tensors(items) -> list[Tensor]:
    """Describe inputs or outputs without their batch axis."""
    return [
        Tensor(name=i.name, dtype=DTYPES[i.type], shape=tuple(a if isinstance(a, int) else -1 for a in i.shape[1:]))
        for i in items
    ]


if __name__ == "__main__":
    made = [instance() for _ in range(WORKERS)]
    first = made[0][1]
    config = TritonConfig(http_address="127.0.0.1", http_port=PORT, allow_grpc=False, allow_metrics=False)
    with Triton(config=config) as triton:
        triton.bind(
            model_name=NAME,
            infer_func=[infer for infer, _session in made],
            inputs=tensors(first.get_inputs()),
            outputs=tensors(first.get_outputs()),
            config=ModelConfig(max_batch_size=max(BATCH, 1), batcher=DynamicBatcher()),
            strict=False,
        )
        triton.serve()
