# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ray Serve: a deployment of two replicas, with `serve.batch` where batching is asked for."""

from __future__ import annotations

import signal
import sys
import time

import numpy as np
import ray
from bench_session import BATCH, BATCH_SECONDS, PORT, WORKERS, load_session
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


@serve.deployment(num_replicas=WORKERS, ray_actor_options={"num_cpus": 1}, max_ongoing_requests=64)
class Model:
    """One replica."""

    def __init__(self) -> None:
        self.session = load_session()
        self.inputs = {item.name: DTYPES[item.type] for item in self.session.get_inputs()}

    @serve.batch(max_batch_size=max(BATCH, 1), batch_wait_timeout_s=BATCH_SECONDS)
    async def infer_batch(self, feeds: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
        """Run the model once for several requests."""
        joined = {name: np.concatenate([feed[name] for feed in feeds]) for name in self.inputs}
        return list(self.session.run(None, joined)[0][:, None])

    async def __call__(self, request: Request) -> Response:
        """Answer a request: JSON by names of the inputs, or the bytes of the only one."""
        raw = request.headers["content-type"] == "application/octet-stream"
        if raw:
            ((name, dtype),) = self.inputs.items()
            shape = [int(axis) for axis in request.query_params["shape"].split(",")]
            feed = {name: np.frombuffer(await request.body(), dtype).reshape(shape)}
        else:
            document = await request.json()
            feed = {name: np.array(document[name], dtype) for name, dtype in self.inputs.items()}
        answer = await self.infer_batch(feed) if BATCH else self.session.run(None, feed)[0]
        if raw:
            return Response(answer.tobytes(), media_type="application/octet-stream")
        return JSONResponse({"outputs": answer.tolist()})


def main() -> None:
    """Serve until a signal comes."""
    # The proxies and the controller take no share of the two CPUs that the replicas ask for.
    ray.init(num_cpus=WORKERS, include_dashboard=False, object_store_memory=200_000_000, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT}, logging_config={"enable_access_log": False})
    serve.run(Model.bind(), route_prefix="/predict", blocking=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while True:
            time.sleep(3600)
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
