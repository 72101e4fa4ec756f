"""The servers that are compared."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.peers import forms
from benchmarks.peers.interface import APPS, GRPC, JPEG, PIXELS, Launch, Peer

OURS = "delugeserve"
"""Name of our own server."""


def _ours(launch: Launch) -> list[str]:
    return [
        *(str(launch.python), "-m", "delugeserve", "serve", "--json", "--standby", "0"),
        *("--repository", str(launch.model.repository), "--model", launch.model.name),
        *("--grpc-port", str(launch.grpc_port), "--http-port", str(launch.http_port)),
        *("--metrics-port", str(launch.metrics_port)),
    ]


def _fastapi(launch: Launch) -> list[str]:
    return [
        *(str(launch.python), "-m", "uvicorn", "fastapi_app:app", "--app-dir", str(APPS)),
        *("--host", "127.0.0.1", "--port", str(launch.http_port)),
        *("--log-level", "warning", "--no-access-log"),
    ]


def _litserve(launch: Launch) -> list[str]:
    return [str(launch.python), str(APPS / "litserve_app.py")]


def _bentoml(launch: Launch) -> list[str]:
    return [
        *(str(launch.python), "-m", "bentoml", "serve", "bentoml_app:Classifier"),
        *("--working-dir", str(APPS), "--host", "127.0.0.1", "--port", str(launch.http_port)),
    ]


def _bentoml_environment(launch: Launch) -> Mapping[str, str]:
    return {"BENTOML_HOME": str(launch.folder / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}


def _mlserver(launch: Launch) -> list[str]:
    return [str(launch.python), str(APPS / "mlserver_app.py")]


def _ray(launch: Launch) -> list[str]:
    return [str(launch.python), str(APPS / "ray_app.py")]


_PEERS = (
    Peer(
        name=OURS,
        title="delugeserve",
        distribution="delugeserve",
        command=_ours,
        forms={PIXELS: forms.TRITON_PIXELS, JPEG: forms.GATEWAY_JPEG, GRPC: None},
        installed=True,
        delayed=False,
    ),
    Peer(
        name="fastapi",
        title="FastAPI + uvicorn",
        distribution="fastapi",
        command=_fastapi,
        forms={PIXELS: forms.PLAIN_PIXELS, JPEG: forms.PLAIN_JPEG},
        documentation=(
            "https://fastapi.tiangolo.com/async/",
            "https://fastapi.tiangolo.com/deployment/server-workers/",
        ),
    ),
    Peer(
        name="litserve",
        title="LitServe",
        distribution="litserve",
        command=_litserve,
        forms={PIXELS: forms.JSON_PIXELS, JPEG: forms.JSON_JPEG},
        workers=lambda cores: cores,
        documentation=(
            "https://lightning.ai/docs/litserve/features/batching",
            "https://lightning.ai/docs/litserve/api-reference/litserver",
        ),
    ),
    Peer(
        name="mlserver",
        title="MLServer",
        distribution="mlserver",
        command=_mlserver,
        forms={PIXELS: forms.V2_PIXELS, JPEG: forms.V2_JPEG, GRPC: forms.V2_GRPC},
        documentation=(
            "https://docs.seldon.ai/mlserver/user-guide/adaptive-batching",
            "https://docs.seldon.ai/mlserver/user-guide/parallel-inference",
        ),
    ),
    Peer(
        name="bentoml",
        title="BentoML",
        distribution="bentoml",
        command=_bentoml,
        forms={PIXELS: forms.LIST_PIXELS, JPEG: forms.LIST_JPEG},
        environment=_bentoml_environment,
        delayed=False,  # it finds the time itself
        adapts=True,
        documentation=(
            "https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html",
            "https://docs.bentoml.com/en/latest/build-with-bentoml/parallelize-requests.html",
        ),
    ),
    Peer(
        name="ray",
        title="Ray Serve",
        distribution="ray",
        command=_ray,
        forms={PIXELS: forms.PLAIN_PIXELS, JPEG: forms.PLAIN_JPEG},
        documentation=(
            "https://docs.ray.io/en/latest/serve/advanced-guides/dyn-req-batch.html",
            "https://docs.ray.io/en/latest/serve/advanced-guides/performance.html",
        ),
    ),
)

PEERS: Mapping[str, Peer] = {peer.name: peer for peer in _PEERS}
"""Every peer, by name."""
