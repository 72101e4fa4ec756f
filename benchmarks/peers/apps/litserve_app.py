"""LitServe.

Batching as https://lightning.ai/docs/litserve/features/batching describes it; images as base64 in
JSON, the form of its image examples, since it reads no raw body. ``fast_queue`` "for
high-throughput scenarios (>100 RPS)", on a CPU as many workers as cores, and as many HTTP servers
as workers: https://lightning.ai/docs/litserve/api-reference/litserver.
"""

import base64

import litserve
import numpy as np
from engine import Codec, Engine, read_settings
from fastapi import Response

SETTINGS = read_settings()


class Classifier(litserve.LitAPI):
    """One workload; each worker has its own engine."""

    def setup(self, device):
        self._engine, self._codec = Engine(SETTINGS), Codec(SETTINGS)
        self._raw = SETTINGS.workload != "jpeg"

    def decode_request(self, request):
        body = base64.b64decode(request["image"])
        return self._codec.pixels(body) if self._raw else self._codec.decode(body)

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, batch):
        return self._engine(batch)

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        if self._raw:
            return Response(output.tobytes(), media_type="application/octet-stream")
        return {"predictions": self._codec.predictions(output)}


if __name__ == "__main__":
    api = Classifier(max_batch_size=SETTINGS.batch, batch_timeout=SETTINGS.delay)
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=SETTINGS.workers, fast_queue=True
    )
    server.run(
        host="127.0.0.1",
        port=SETTINGS.port,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
