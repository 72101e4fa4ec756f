"""The engine and the decoder that every peer uses: those of our own server.

It runs in a peer's environment, with NumPy, OpenVINO and Pillow. Settings come from environment
variables, which :mod:`benchmarks.peers.servers` sets.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino
import openvino_engine

from delugeserve_client.preprocessing import Preprocessing

OUTPUT = "probabilities"


@dataclass(frozen=True)
class Settings:
    """What a peer is told.

    Attributes:
        artefact: ``model.xml``.
        name: the model's name.
        precision: OpenVINO's name of the precision.
        threads: threads of the engine; 0 for all cores.
        plain: run OpenVINO as its documentation shows, not by the engine of our server.
        workers: processes, or whatever a peer calls them, that run an engine each.
        shape: height, width and channels of the input.
        preprocessing: how an image becomes the input.
        labels: class names.
        top_k: number of classes in an answer with labels.
        batch: largest batch.
        delay: seconds that the first image of a batch waits for others.
        port: where to listen on loopback.
        other_ports: two more free ports.
        workload: "pixels", "jpeg" or "grpc".
    """

    artefact: str
    name: str
    precision: str
    threads: int
    plain: bool
    workers: int
    shape: list
    preprocessing: dict
    labels: list
    top_k: int
    batch: int
    delay: float
    port: int
    other_ports: list
    workload: str


def read_settings():
    """Return the settings of this process."""
    return Settings(**json.loads(Path(os.environ["PEER_SETTINGS"]).read_text(encoding="utf-8")))


class Engine:
    """Runs batches; not to be called from two threads at once."""

    def __init__(self, settings):
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": settings.precision,
        }
        core = openvino.Core()
        if settings.plain:
            if settings.threads:
                options["INFERENCE_NUM_THREADS"] = settings.threads
                # OpenVINO pins the threads of every process to the same cores.
                options["ENABLE_CPU_PINNING"] = False
            self._run = _plain(core.compile_model(settings.artefact, "CPU", options))
        else:
            threads = settings.threads or None
            engine = openvino_engine.Engine(core, settings.artefact, options, threads)
            self._run = lambda batch: engine.run(batch, (OUTPUT,))[OUTPUT]
        for size in (1, settings.batch):  # the first batch of a size is slow
            self(np.zeros((size, *settings.shape), np.uint8))

    def __call__(self, batch):
        """Return probabilities, float32 ``[N, classes]``, of uint8 ``[N, H, W, 3]``."""
        return self._run(batch).copy()


def _plain(compiled):
    request = compiled.create_infer_request()
    place = next(i for i, output in enumerate(compiled.outputs) if OUTPUT in output.names)
    return lambda batch: request.infer([batch], share_inputs=True, share_outputs=True)[place]


class Codec:
    """Turns requests into the engine's input, and its output into answers."""

    def __init__(self, settings):
        self._shape, self._labels, self._top = settings.shape, settings.labels, settings.top_k
        self._preprocess = Preprocessing(**settings.preprocessing)

    def pixels(self, body):
        """Return uint8 ``[H, W, 3]`` from raw pixels."""
        return np.frombuffer(body, np.uint8).reshape(self._shape)

    def decode(self, body):
        """Return uint8 ``[H, W, 3]`` from an image file."""
        return self._preprocess(body)

    def predictions(self, row):
        """Return the classes of the largest probabilities of float32 ``[classes]``."""
        best = np.argsort(row)[: -self._top - 1 : -1]
        return [
            {"label": self._labels[i], "index": int(i), "probability": round(float(row[i]), 6)}
            for i in best
        ]
