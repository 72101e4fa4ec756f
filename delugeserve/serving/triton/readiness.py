"""Proof that a server is ready: every model answers a real inference."""

from __future__ import annotations

import contextlib
import time
from types import ModuleType
from typing import Any

from delugeserve.artifacts.image_models import probe
from delugeserve.serving.triton import diagnosis
from delugeserve.serving.triton.log import tidy
from delugeserve.serving.triton.server import TritonServer
from delugeserve.system.progress import NO_PROGRESS, Progress

_POLL = 0.05  # seconds
_NOT_YET = frozenset(
    {"StatusCode.UNAVAILABLE", "StatusCode.NOT_FOUND", "StatusCode.DEADLINE_EXCEEDED"}
)
_MAX_MESSAGE = 2**31 - 1  # bytes; options of a channel replace tritonclient's own


def wait_until_ready(
    server: TritonServer, timeout: float, progress: Progress = NO_PROGRESS
) -> None:
    """Wait until every model has answered a request over gRPC.

    The server's own readiness flag is not used: it stays true when a model's process has died.

    Args:
        server: a server that was just started.
        timeout: seconds that loading may take.
        progress: receives the stages.

    Raises:
        PortError: another process has taken a port in the meantime.
        ServerError: the server ended, a model fails, or loading took too long.
    """
    import tritonclient.grpc
    from tritonclient.utils import InferenceServerException

    deadline = time.monotonic() + timeout
    progress.stage(f"load {_count(len(server.models))}", total=len(server.loaded))
    waiting, reason = list(server.loaded), ""
    with contextlib.closing(_connect(tritonclient.grpc, server.grpc_url)) as client:
        while waiting:
            if server.poll() is not None:
                raise server.start_error()
            # Until then, the port may be another server's.
            if server.is_listening():
                try:
                    left = max(deadline - time.monotonic(), 1.0)
                    _infer_zeros(tritonclient.grpc, client, waiting[0], left)
                    waiting.pop(0)
                    progress.advance()
                    continue
                except InferenceServerException as error:
                    reason = tidy(error.message() or "")
                    if error.status() not in _NOT_YET:
                        stored = server.stored_model(waiting[0])
                        raise diagnosis.explain_no_answer(stored, reason) from None
            if time.monotonic() > deadline:
                raise diagnosis.explain_timeout(waiting[0], timeout, reason)
            time.sleep(_POLL)
    server.find_model_processes()


def _connect(grpc: ModuleType, url: str) -> Any:
    return grpc.InferenceServerClient(
        url,
        channel_args=[
            ("grpc.max_send_message_length", _MAX_MESSAGE),
            ("grpc.max_receive_message_length", _MAX_MESSAGE),
            # http_proxy in the environment is not for servers of this machine.
            ("grpc.enable_http_proxy", 0),
        ],
    )


def _infer_zeros(grpc: ModuleType, client: Any, model: str, timeout: float) -> None:
    """Run one inference on zeros of the shapes in the model's metadata, or on a tiny image."""
    import numpy as np
    from tritonclient.utils import triton_to_np_dtype

    metadata = client.get_model_metadata(model, client_timeout=timeout)
    inputs = []
    for tensor in metadata.inputs:
        values = probe(tensor.datatype, tensor.shape)
        if values is None:
            # A size of -1 is the batch, or any size at all.
            shape = [1 if size < 0 else size for size in tensor.shape]
            values = np.zeros(shape, triton_to_np_dtype(tensor.datatype))
        inputs.append(grpc.InferInput(tensor.name, list(values.shape), tensor.datatype))
        inputs[-1].set_data_from_numpy(values)
    client.infer(model, inputs, client_timeout=timeout)


def _count(models: int) -> str:
    return "1 model" if models == 1 else f"{models} models"
