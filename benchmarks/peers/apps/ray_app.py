"""Ray Serve.

``serve.batch``, and ``max_ongoing_requests`` above the batch size, as
https://docs.ray.io/en/latest/serve/advanced-guides/dyn-req-batch.html advises. Blocking work in a
thread: https://docs.ray.io/en/latest/serve/advanced-guides/asyncio-best-practices.html. HAProxy and
the throughput options of
https://docs.ray.io/en/master/cluster/kubernetes/user-guides/kuberay-serve-high-throughput.html. One
replica: the engine uses all cores, and only requests of one replica can share a batch.
"""

import asyncio
import os
import signal
import tempfile

import numpy as np
from engine import Codec, Engine, read_settings

SETTINGS = read_settings()
FOLDER = tempfile.gettempdir()
os.environ.update(
    {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{FOLDER}/h/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{FOLDER}/h/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": f"{FOLDER}/h",
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{FOLDER}/h/server-state",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(SETTINGS.other_ports[0]),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(SETTINGS.other_ports[1]),
    }
)

import ray  # noqa: E402 - it reads the variables
from ray import serve  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import Response  # noqa: E402


@serve.deployment(
    num_replicas=SETTINGS.workers,
    max_ongoing_requests=16 * SETTINGS.batch,
    ray_actor_options={"num_cpus": 1},
    logging_config={"enable_access_log": False},
)
class Classifier:
    """Answers raw pixels and image files."""

    def __init__(self, settings):
        self._engine, self._codec = Engine(settings), Codec(settings)
        self._raw = settings.workload != "jpeg"

    @serve.batch(max_batch_size=SETTINGS.batch, batch_wait_timeout_s=SETTINGS.delay)
    async def _infer(self, images):
        return list(await asyncio.to_thread(self._engine, np.stack(images)))

    async def __call__(self, request: Request):
        body = await request.body()
        if self._raw:
            row = await self._infer(self._codec.pixels(body))
            return Response(row.tobytes(), media_type="application/octet-stream")
        row = await self._infer(await asyncio.to_thread(self._codec.decode, body))
        return {"predictions": self._codec.predictions(row)}


if __name__ == "__main__":
    cores = len(os.sched_getaffinity(0))
    ray.init(
        num_cpus=max(cores, SETTINGS.workers),
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=FOLDER,
        object_store_memory=100 * 2**20,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": SETTINGS.port})
    serve.run(Classifier.bind(SETTINGS))
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()
