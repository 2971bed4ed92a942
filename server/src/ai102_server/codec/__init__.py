# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Tensors of the Open Inference Protocol V2, as JSON and as the binary tensor extension."""

from __future__ import annotations

from ai102_server.codec.compression import ENCODINGS, choose_encoding, compress, decompress, request_encoding
from ai102_server.codec.datatypes import BF16, DATATYPES, Datatype, from_onnx
from ai102_server.codec.deadline import TIMEOUT_HEADER, parse_timeout_header
from ai102_server.codec.ortvalues import needs_ort_values, run_with_ort_values
from ai102_server.codec.v2 import (
    BINARY_HEADER,
    EncodedResponse,
    InferRequest,
    OutputRequest,
    TensorSpec,
    decode_request,
    encode_response,
    tensor_to_json,
)

__all__ = [
    "BF16",
    "BINARY_HEADER",
    "DATATYPES",
    "ENCODINGS",
    "TIMEOUT_HEADER",
    "Datatype",
    "EncodedResponse",
    "InferRequest",
    "OutputRequest",
    "TensorSpec",
    "choose_encoding",
    "compress",
    "decode_request",
    "decompress",
    "encode_response",
    "from_onnx",
    "needs_ort_values",
    "parse_timeout_header",
    "request_encoding",
    "run_with_ort_values",
    "tensor_to_json",
]
