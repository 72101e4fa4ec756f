"""Proof that a server is ready: every model answers a real inference."""

from __future__ import annotations

import contextlib
import time

from delugeserve.serving.triton import diagnosis
from delugeserve.serving.triton.inference import connect, smallest_inputs
from delugeserve.serving.triton.log import tidy
from delugeserve.serving.triton.server import TritonServer
from delugeserve.system.progress import NO_PROGRESS, Progress

_POLL = 0.05  # seconds
_NOT_YET = frozenset(
    {"StatusCode.UNAVAILABLE", "StatusCode.NOT_FOUND", "StatusCode.DEADLINE_EXCEEDED"}
)


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
    from tritonclient.utils import InferenceServerException

    deadline = time.monotonic() + timeout
    progress.stage(f"load {_count(len(server.models))}", total=len(server.loaded))
    waiting, reason = list(server.loaded), ""
    with contextlib.closing(connect(server.grpc_url)) as client:
        while waiting:
            if server.poll() is not None:
                raise server.start_error()
            # Until then, the port may be another server's.
            if server.is_listening():
                try:
                    left = max(deadline - time.monotonic(), 1.0)
                    inputs = smallest_inputs(client, waiting[0], left)
                    client.infer(waiting[0], inputs, client_timeout=left)
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


def _count(models: int) -> str:
    return "1 model" if models == 1 else f"{models} models"
