"""FastAPI and uvicorn. FastAPI has no dynamic batching, so a small batcher is part of the app.

Blocking work runs in threads, as https://fastapi.tiangolo.com/async/ advises; the engine is made in
the lifespan (https://fastapi.tiangolo.com/advanced/events/). One process, since the engine uses all
cores and only requests of one process can share a batch
(https://fastapi.tiangolo.com/deployment/server-workers/).
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import numpy as np
from engine import Codec, Engine, read_settings
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

SETTINGS = read_settings()
CODEC = Codec(SETTINGS)


class Batcher:
    """Collects images until the batch is full or the first one has waited long enough."""

    def __init__(self, engine):
        self._engine = engine
        self._queue = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1)

    async def __call__(self, image):
        """Return the probabilities of an image."""
        answer = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((image, answer, asyncio.get_running_loop().time()))
        return await answer

    async def run(self):
        """Form batches and run them, one after the other."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            end = batch[0][2] + SETTINGS.delay  # no more waiting for what waited for the engine
            while len(batch) < SETTINGS.batch:
                if self._queue.empty():
                    if (left := end - loop.time()) <= 0:
                        break
                    try:
                        batch.append(await asyncio.wait_for(self._queue.get(), left))
                    except asyncio.TimeoutError:
                        break
                else:
                    batch.append(self._queue.get_nowait())
            images = np.stack([image for image, _, _ in batch])
            rows = await loop.run_in_executor(self._thread, self._engine, images)
            for (_, answer, _), row in zip(batch, rows, strict=True):
                if not answer.done():
                    answer.set_result(row)


@asynccontextmanager
async def lifespan(app):
    app.state.classify = Batcher(await run_in_threadpool(Engine, SETTINGS))
    running = asyncio.create_task(app.state.classify.run())
    yield
    running.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/pixels")
async def pixels(request: Request) -> Response:
    row = await app.state.classify(CODEC.pixels(await request.body()))
    return Response(row.tobytes(), media_type="application/octet-stream")


@app.post("/classify")
async def classify(request: Request) -> dict:
    image = await run_in_threadpool(CODEC.decode, await request.body())
    return {"predictions": CODEC.predictions(await app.state.classify(image))}
