# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code=import-not-found
"""KServe's REST client against a running server. Needs the package kserve and nothing of this project.

Usage: kserve_client.py http://host:port; prints the number of calls whose answers were right as the last word.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import numpy as np
from kserve import InferInput, InferRequest
from kserve.inference_client import InferenceRESTClient, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

EXTREMES = {"INT64": [-(2**63), -1, 0, 2**63 - 1], "UINT64": [0, 1, 2**63, 2**64 - 1]}
NUMBERS = {
    "BOOL": np.array([True, False, True, True]),
    **{
        f"{kind}{bits}": np.array(
            EXTREMES.get(f"{kind}{bits}", [0, 1, 2, 2 ** (bits - 1) - 1]), dtype=f"{kind.lower()}{bits}"
        )
        for kind in ("INT", "UINT")
        for bits in (8, 16, 32, 64)
    },
    "FP16": np.array([0.0, -1.5, 65504.0, 0.25], np.float16),
    "FP32": np.array([0.0, -1.5, 2.0**100, 0.1], np.float32),
    "FP64": np.array([0.0, -1.5, 1e300, 0.1], np.float64),
    "BYTES": np.array([b"", b"text", "zwölf".encode(), b"nul\0inside"], dtype=object),
}


async def echo(client: Any, url: str, datatype: str, binary_in: bool, binary_out: bool) -> None:
    """Send and receive the values of a datatype."""
    array = NUMBERS[datatype].reshape(2, 2)
    tensor = InferInput("x", [2, 2], datatype)
    tensor.set_data_from_numpy(array, binary_data=binary_in)
    request = InferRequest(
        f"echo_{datatype.lower()}",
        [tensor],
        request_id="i",
        request_outputs=[RequestedOutput("y", {"binary_data": binary_out})],
    )
    response = await client.infer(url, request, model_name=request.model_name)
    assert response.id == "i", response.id
    found = response.outputs[0].as_numpy()
    if datatype == "BYTES":
        plain = [item.encode() if isinstance(item, str) else item for item in found.reshape(-1)]
        assert plain == array.reshape(-1).tolist(), plain
    else:
        assert found.tobytes() == array.tobytes(), (datatype, found)


async def main(url: str) -> int:
    """Every call of the client for V2."""
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=30))
    checked = 4
    assert await client.is_server_live(url)
    assert await client.is_server_ready(url)
    assert await client.is_model_ready(url, "doubling")
    assert not await client.is_model_ready(url, "none")
    for datatype in NUMBERS:
        for binary_in in (True, False):
            for binary_out in (True, False):
                if datatype == "FP16" and not (binary_in and binary_out):
                    # The client refuses FP16 in JSON.
                    continue
                await echo(client, url, datatype, binary_in, binary_out)
                checked += 1
    plain = await client.infer(
        url,
        {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]},
        model_name="doubling",
    )
    assert plain.outputs[0].data == [2, 4, 6], plain
    return checked + 1


if __name__ == "__main__":
    print("right:", asyncio.run(main(sys.argv[1])))
