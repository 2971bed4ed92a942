# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Tensors of the Open Inference Protocol V2, as JSON and as the binary tensor extension."""

from __future__ import annotations

from ai102_server.codec.datatypes import DATATYPES, Datatype, from_onnx
from ai102_server.codec.v2 import (
    BINARY_HEADER,
    EncodedResponse,
    InferRequest,
    TensorSpec,
    decode_request,
    encode_response,
    tensor_to_json,
)

__all__ = [
    "BINARY_HEADER",
    "DATATYPES",
    "Datatype",
    "EncodedResponse",
    "InferRequest",
    "TensorSpec",
    "decode_request",
    "encode_response",
    "from_onnx",
    "tensor_to_json",
]
