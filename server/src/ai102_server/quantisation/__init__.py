# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""INT8 models: calibration, quantisation, and proof of what they are worth.

Built on ``onnxruntime.quantization``, which needs the package ``onnx``: ``pip install ai102-server[quantize]``.
"""

from __future__ import annotations

from ai102_server.quantisation.evaluate import Comparison, Evaluation, Judge, evaluate
from ai102_server.quantisation.quantise import METHODS, Options, Outcome, quantise
from ai102_server.quantisation.samples import SampleSet, load_samples, split
from ai102_server.quantisation.tensorrt import write_table

__all__ = [
    "METHODS",
    "Comparison",
    "Evaluation",
    "Judge",
    "Options",
    "Outcome",
    "SampleSet",
    "evaluate",
    "load_samples",
    "quantise",
    "split",
    "write_table",
]
