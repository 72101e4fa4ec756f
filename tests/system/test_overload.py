"""A server with more requests than it can answer refuses them, and answers the others."""

import shutil
import threading

import numpy as np
import pytest

from delugeserve.artifacts.configuring import configure
from delugeserve.artifacts.serving_config import ServingConfig
from delugeserve.serving.supervisor import serve

grpc = pytest.importorskip("tritonclient.grpc")
if shutil.which("tritonserver") is None:
    pytest.importorskip("pytriton.constants", reason="there is no tritonserver (nvidia-pytriton)")


def test_a_full_queue_refuses_requests(exported, tmp_path):
    repository = shutil.copytree(exported, tmp_path / "model_repository")
    settings = ServingConfig(queue_size=4, response_cache=True, rate_limit={"cores": 1})
    configure(repository, "tiny", settings)
    with serve(repository, direct=True, grpc_port=0, http_port=None, metrics_port=None) as server:
        client = grpc.InferenceServerClient(server.grpc_url)
        answers = Answers(300)
        for number in range(300):  # different images, so that none comes from the cache
            image = grpc.InferInput("image", [8, 32, 32, 3], "UINT8")
            image.set_data_from_numpy(np.full((8, 32, 32, 3), number % 256, np.uint8))
            client.async_infer("tiny", [image], answers.add)
        found = answers.wait()
        assert found["ok"] >= 1
        assert found["Exceeds maximum queue size"] >= 1
        assert sum(found.values()) == 300


class Answers:
    """Counts answers and the reasons of refusals."""

    def __init__(self, expected):
        self.expected, self.found = expected, {"ok": 0}
        self.lock, self.done = threading.Lock(), threading.Event()

    def add(self, result, error):
        with self.lock:
            reason = "ok" if error is None else error.message().rpartition("] ")[2]
            self.found[reason] = self.found.get(reason, 0) + 1
            if sum(self.found.values()) == self.expected:
                self.done.set()

    def wait(self):
        assert self.done.wait(60)
        return self.found
