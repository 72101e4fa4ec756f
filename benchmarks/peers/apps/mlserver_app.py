"""MLServer: a custom runtime, and the files that configure it.

See https://docs.seldon.ai/mlserver/user-guide/custom. Images are elements of BYTES in base64, since
its REST server takes JSON alone (https://docs.seldon.ai/mlserver/user-guide/content-type). Batching
as in https://docs.seldon.ai/mlserver/user-guide/adaptive-batching; one worker, the default of
https://docs.seldon.ai/mlserver/user-guide/parallel-inference: the engine uses all cores.
"""

import asyncio
import json
from pathlib import Path

import numpy as np
from engine import Codec, Engine, read_settings
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Classifier(MLModel):
    """Answers raw pixels and image files."""

    async def load(self) -> bool:
        settings = read_settings()
        self._engine, self._codec = Engine(settings), Codec(settings)
        self._raw = settings.workload != "jpeg"
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = _images(payload.inputs[0])
        read = self._codec.pixels if self._raw else self._codec.decode
        rows = self._engine(np.stack([read(image) for image in images]))
        if self._raw:
            outputs = [NumpyCodec.encode_output("probabilities", rows)]
        else:
            found = [self._codec.predictions(row) for row in rows]
            outputs = [
                _numbers("index", found, np.int64),
                _numbers("probability", found, np.float64),
                # One element for each image, so that batches can be taken apart.
                StringCodec.encode_output(
                    "label", ["\n".join(one["label"] for one in best) for best in found]
                ),
            ]
        return InferenceResponse(model_name=self.name, outputs=outputs)


def _images(given):
    """Return the elements of a tensor: over gRPC they are raw."""
    elements = given.data.root
    return elements if isinstance(elements[0], bytes) else Base64Codec.decode_input(given)


def _numbers(name, found, dtype):
    return NumpyCodec.encode_output(
        name, np.array([[one[name] for one in best] for best in found], dtype)
    )


def _configure(settings, folder):
    server = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": settings.port,
        "grpc_port": settings.other_ports[0],
        "metrics_port": settings.other_ports[1],
        "parallel_workers": settings.workers,
    }
    model = {
        "name": settings.name,
        "implementation": "mlserver_app.Classifier",
        "max_batch_size": settings.batch,
        "max_batch_time": settings.delay,
    }
    for name, values in (("settings.json", server), ("model-settings.json", model)):
        (folder / name).write_text(json.dumps(values), encoding="utf-8")


async def _main():
    from mlserver.cli.serve import load_settings
    from mlserver.server import MLServer

    settings = read_settings()
    folder = Path(settings.name)  # the working directory is the server's own
    folder.mkdir()
    _configure(settings, folder)
    server, models = await load_settings(str(folder))
    await MLServer(server).start(models)


if __name__ == "__main__":
    asyncio.run(_main())
