# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""MLServer: a runtime of its own kind for ONNX; workers and adaptive batching are its settings."""

from __future__ import annotations

import numpy as np
from bench_session import load_session
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    """One worker's model."""

    async def load(self) -> bool:
        """Load the model."""
        self.session = load_session()
        self.names = [item.name for item in self.session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run the model."""
        feed: dict[str, np.ndarray] = {item.name: NumpyCodec.decode_input(item) for item in payload.inputs}
        arrays = self.session.run(self.names, feed)
        return InferenceResponse(
            model_name=self.name,
            outputs=[NumpyCodec.encode_output(name, array) for name, array in zip(self.names, arrays, strict=True)],
        )
