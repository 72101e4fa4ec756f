"""Ray Serve.

``serve.batch`` and ``max_ongoing_requests`` above the batch size as
https://docs.ray.io/en/latest/serve/advanced-guides/dyn-req-batch.html advises; blocking work in a
thread, https://docs.ray.io/en/latest/serve/advanced-guides/asyncio-best-practices.html.
"""

import asyncio

import numpy as np
from engine import Codec, Engine, read_settings
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

SETTINGS = read_settings()


@serve.deployment(
    num_replicas=SETTINGS.workers,
    max_ongoing_requests=16 * SETTINGS.batch,
    ray_actor_options={"num_cpus": 1},
)
class Classifier:
    """Answers raw pixels and image files."""

    def __init__(self):
        self._engine, self._codec = Engine(SETTINGS), Codec(SETTINGS)

    @serve.batch(max_batch_size=SETTINGS.batch, batch_wait_timeout_s=SETTINGS.delay)
    async def _infer(self, images):
        return list(await asyncio.to_thread(self._engine, np.stack(images)))

    async def __call__(self, request: Request):
        body = await request.body()
        if SETTINGS.workload == "pixels":
            row = await self._infer(self._codec.pixels(body))
            return Response(row.tobytes(), media_type="application/octet-stream")
        row = await self._infer(await asyncio.to_thread(self._codec.decode, body))
        return {"predictions": self._codec.predictions(row)}


app = Classifier.bind()
