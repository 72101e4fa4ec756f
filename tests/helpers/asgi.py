"""Call an ASGI application in this process, and a stand-in for Triton's gRPC endpoint."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

LABELS = ("red", "green: grass", "blue")


@dataclass(frozen=True)
class Response:
    """What an application answered; the status is 0 if it did not."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


async def call(
    app: Any,
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | None = None,
    chunks: Iterable[bytes] = (b"",),
    pause: float = 0,
    leave: asyncio.Event | None = None,
    port: int = 80,
) -> Response:
    """Send one request.

    Args:
        chunks: parts of the body; ``pause`` seconds pass before each. What was read is taken off a
            list.
        leave: the client disconnects once the body is sent and this is set; None stays.
        port: the port that the server listens on.
    """
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [
            (name.lower().encode(), value.encode("latin-1"))
            for name, value in {"host": "localhost", **(headers or {})}.items()
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", port),
        "state": {},
    }
    left = chunks if isinstance(chunks, list) else list(chunks)

    async def receive() -> dict[str, Any]:
        if left:
            await asyncio.sleep(pause)
            chunk = left.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(left)}
        await (leave or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    status, sent, body = 0, {}, b""

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, sent, body
        if message["type"] == "http.response.start":
            status = message["status"]
            sent = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            body += message.get("body", b"")

    await app(scope, receive, send)
    return Response(status, sent, body)


def multipart(*parts: tuple[str, str | None, bytes]) -> tuple[dict[str, str], bytes]:
    """Return headers and body of a multipart request.

    Args:
        parts: name, file name (None for a field that is not a file) and content of each.
    """
    body = b""
    for name, file, content in parts:
        disposition = f'form-data; name="{name}"' + (f'; filename="{file}"' if file else "")
        body += f"--xyz\r\ncontent-disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n"
    return {"content-type": "multipart/form-data; boundary=xyz"}, body + b"--xyz--\r\n"


Handler = Callable[[Any, grpc.ServicerContext], list[float]]


@dataclass
class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Triton's gRPC endpoint with models of three classes, in this process.

    Attributes:
        models: the versions that are ready, by model.
        own: models that are not companions, although they have a companion's name.
        lists_models: whether the list of models can be read.
        handler: returns the probabilities for a request, or aborts it.
        size: height and width of the input of models that take pixels.
        preprocessing: what the models say of it; empty for nothing.
        queue_delay: microseconds that their queues wait for more requests.
        caches: whether they have a cache of answers.
        requests: what was asked for inference.
        metadata: gRPC metadata of those.
        cancelled: set when a client cancels a request.
    """

    models: dict[str, tuple[str, ...]] = field(default_factory=lambda: {"colour": ("1",)})
    own: tuple[str, ...] = ()
    lists_models: bool = True
    handler: Handler = field(default=lambda request, context: [0.7, 0.2, 0.1])
    size: tuple[int, int] = (8, 12)
    preprocessing: str = ""
    queue_delay: int = 0
    caches: bool = False
    requests: list[Any] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def RepositoryIndex(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        if not self.lists_models:
            context.abort(grpc.StatusCode.UNAVAILABLE, "connection refused")
        reply = service_pb2.RepositoryIndexResponse()
        for name, versions in self.models.items():
            for version in versions:
                reply.models.add(name=name, version=version, state="READY")
        return reply

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        if request.name not in self.models:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}'")
        versions = self.models[request.name]
        reply = service_pb2.ModelMetadataResponse(name=request.name, versions=versions)
        reply.inputs.add(name="image", datatype="UINT8", shape=[-1, *self.size, 3])
        reply.outputs.add(name="probabilities", datatype="FP32", shape=[-1, len(LABELS)])
        if request.name.endswith("_image"):
            reply.inputs[0].datatype = "BYTES"
            reply.outputs.add(name="error", datatype="BYTES", shape=[-1, 1])
        return reply

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        reply = service_pb2.ModelConfigResponse(config={"name": request.name, "max_batch_size": 4})
        owner, _, end = request.name.rpartition("_")
        if end in ("image", "decode") and request.name not in self.own:
            reply.config.parameters["companion_of"].string_value = owner
        reply.config.dynamic_batching.max_queue_delay_microseconds = self.queue_delay
        reply.config.response_cache.enable = self.caches
        if self.preprocessing:
            reply.config.parameters["preprocessing"].string_value = self.preprocessing
        return reply

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.requests.append(request)
        self.metadata.append({key: str(value) for key, value in context.invocation_metadata()})
        answered = threading.Event()
        context.add_callback(lambda: answered.is_set() or self.cancelled.set())
        if request.model_name not in self.models:
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.model_name}'"
            )
        probabilities = self.handler(request, context)
        count = request.outputs[0].parameters["classification"].int64_param
        order = np.argsort(probabilities)[::-1][:count]
        texts = [f"{probabilities[at]:f}:{at}:{LABELS[at]}".encode() for at in order]
        images = request.inputs[0].shape[0]
        reply = service_pb2.ModelInferResponse(
            model_name=request.model_name, model_version=self.models[request.model_name][-1]
        )
        reply.outputs.add(name="probabilities", datatype="BYTES", shape=[images, len(texts)])
        answered.set()
        row = serialize_byte_tensor(np.array([texts] * images, dtype=np.object_))
        reply.raw_output_contents.append(row.item())
        return reply


def sent_bytes(request: Any) -> bytes:
    """Return the BYTES element of an inference request."""
    (content,) = deserialize_bytes_tensor(request.raw_input_contents[0])
    return bytes(content)


def sent_pixels(request: Any) -> np.ndarray:
    """Return the uint8 array of an inference request."""
    return np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(request.inputs[0].shape)


@contextmanager
def serving(triton: FakeTriton) -> Iterator[str]:
    """Serve it on a free port of the loopback, and yield the address."""
    server = grpc.server(
        ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", 2**31 - 1)]
    )
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
