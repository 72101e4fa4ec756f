"""BentoML.

A batchable API takes a list, and a request a list of one, as
https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html shows, with its batch size and
latency; images as base64 in JSON. One worker, the default of
https://docs.bentoml.com/en/latest/build-with-bentoml/parallelize-requests.html: the engine uses all
cores, and only requests of one worker can share a batch.
"""

import base64

import bentoml
import numpy as np
from engine import Codec, Engine, read_settings

SETTINGS = read_settings()


@bentoml.service(workers=SETTINGS.workers, logging={"access": {"enabled": False}})
class Classifier:
    """Answers raw pixels and image files."""

    def __init__(self):
        self._engine, self._codec = Engine(SETTINGS), Codec(SETTINGS)

    @bentoml.api(batchable=True, max_batch_size=SETTINGS.batch, max_latency_ms=1000)
    def pixels(self, images: list[str]) -> list[list[float]]:
        return self._engine(self._stack(self._codec.pixels, images)).tolist()

    @bentoml.api(batchable=True, max_batch_size=SETTINGS.batch, max_latency_ms=1000)
    def classify(self, images: list[str]) -> list[list[dict]]:
        rows = self._engine(self._stack(self._codec.decode, images))
        return [self._codec.predictions(row) for row in rows]

    @staticmethod
    def _stack(read, images):
        return np.stack([read(base64.b64decode(image)) for image in images])
