# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""KServe's SDK: a predictor with the V2 protocol, JSON and binary."""

from __future__ import annotations

from typing import Any

from bench_session import NAME, PORT, WORKERS, load_session
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.utils.utils import generate_uuid

CODES = {"float32": "FP32", "int64": "INT64"}


class Predictor(Model):
    """The model."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.load()

    def load(self) -> bool:
        """Load the model."""
        self.session = load_session()
        self.names = [item.name for item in self.session.get_outputs()]
        self.ready = True
        return self.ready

    def __getstate__(self) -> dict[str, Any]:
        """Several workers are processes that get a pickled model, and a session cannot be pickled."""
        return {key: value for key, value in self.__dict__.items() if key != "session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load the model again."""
        self.__dict__.update(state)
        self.load()

    async def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:  # noqa: ARG002 (KServe passes them)
        """Run the model."""
        arrays = self.session.run(self.names, {item.name: item.as_numpy() for item in payload.inputs})
        outputs = []
        for name, array in zip(self.names, arrays, strict=True):
            output = InferOutput(name=name, shape=list(array.shape), datatype=CODES[array.dtype.name])
            output.set_data_from_numpy(array, binary_data=bool(payload.use_binary_outputs))
            outputs.append(output)
        return InferResponse(response_id=payload.id or generate_uuid(), model_name=self.name, infer_outputs=outputs)


if __name__ == "__main__":
    ModelServer(http_port=PORT, workers=WORKERS, enable_grpc=False, enable_latency_logging=False).start(
        [Predictor(NAME)]
    )
