# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Calibration table for INT8 in ONNX Runtime's TensorRT provider, for TensorRT up to 10.

TensorRT 11 takes quantised models (QDQ) only; `ai102-server quantize --target gpu` writes one that both understand.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from onnxruntime.quantization import CalibrationMethod
from onnxruntime.quantization.calibrate import TensorData, TensorsData, create_calibrator
from onnxruntime.quantization.quant_utils import write_calibration_table

from ai102_server.errors import ServerError
from ai102_server.quantisation.evaluate import Progress
from ai102_server.quantisation.samples import SampleSet

__all__ = ["TABLE_FILES", "Reader", "write_table"]

TABLE_FILES: Final = ("calibration.flatbuffers", "calibration.json", "calibration.cache")
_PORTION: Final = 8


class Reader:
    """Hands samples to ONNX Runtime's calibrators, a few at a time.

    Calibrators keep every intermediate tensor of what they are given in memory until they have all of it: ``set_range``
    lets them have the whole set in portions.
    """

    def __init__(self, samples: SampleSet, progress: Progress) -> None:
        self._samples = samples
        self._steps = progress(samples.feeds, "calibrating")
        self._end = len(samples)
        self._next = 0
        # Calibrators with histograms stack what they get in one portion, so all of it must have one shape.
        shapes = {tuple(array.shape for array in feed.values()) for feed in samples.feeds}
        self.portion = _PORTION if len(shapes) == 1 else 1

    def __len__(self) -> int:
        """The number of samples, rounded up to whole portions, as ``quantize_static`` asks for."""
        return -(-len(self._samples) // self.portion) * self.portion

    def __iter__(self) -> Reader:
        return self

    def __next__(self) -> dict[str, Any]:
        found = self.get_next()
        if found is None:
            raise StopIteration
        return found

    def set_range(self, start_index: int, end_index: int) -> None:
        """Hand out the samples from ``start_index`` up to ``end_index``."""
        self._next, self._end = start_index, min(end_index, len(self._samples))

    def get_next(self) -> dict[str, Any] | None:
        """The next sample, None after the last one."""
        if self._next >= self._end:
            return None
        self._next += 1
        found: dict[str, Any] | None = next(self._steps, None)
        return found


def write_table(model: Path, samples: SampleSet, method: CalibrationMethod, directory: Path, progress: Progress) -> int:
    """Find the range of every tensor of ``model`` and write the table to ``directory``. Returns the number of tensors.

    The three files hold the same: ``calibration.flatbuffers`` is what ``trt_int8_calibration_table_name`` names with
    ``trt_int8_use_native_calibration_table`` off, ``calibration.json`` what people read, ``calibration.cache`` plain
    lines. Ranges are symmetric, as TensorRT's are. Raises ``ServerError`` when the directory cannot be written.
    """
    reader = Reader(samples, progress)
    with tempfile.TemporaryDirectory() as scratch:
        calibrator = create_calibrator(
            model,
            None,
            augmented_model_path=str(Path(scratch) / "augmented.onnx"),
            calibrate_method=method,
            extra_options={"symmetric": True},
        )
        for start in range(0, len(reader), reader.portion):
            reader.set_range(start, start + reader.portion)
            calibrator.collect_data(reader)
        found = calibrator.compute_data()
    ranges = {name: _symmetric(found[name]) for name in found.keys()}  # noqa: SIM118 (not a mapping)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_calibration_table(TensorsData(method, ranges).data, str(directory))
    except OSError as error:
        raise ServerError(f"{directory} cannot be written: {error.strerror}") from error
    return len(ranges)


def _symmetric(data: TensorData) -> TensorData:
    """The range ±largest magnitude. The writer takes the upper end, which of -5…2 would be 2."""
    low, high = data.range_value
    largest = np.maximum(np.abs(low), np.abs(high)).astype(np.float32)
    return TensorData(lowest=-largest, highest=largest)
