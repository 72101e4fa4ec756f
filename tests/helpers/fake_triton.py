"""A model behind gRPC and HTTP in this process, which fails as told: for tests of the client."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

CONFIG = {
    "max_batch_size": 4,
    "parameters": {"artifact": {"string_value": "0123456789abcdef"}},
}
METADATA = {
    "name": "fake",
    "versions": ["1"],
    "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 2, 2, 3]}],
    "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}],
}


class FakeTriton:
    """What the model answers: the class of an image is its first pixel's value modulo 3.

    Attributes:
        failures: what the next requests are answered with instead, as gRPC's status and message.
        delay: seconds that a request takes.
        requests: number of requests received, of those that fail as well.
        headers: of the last request.
        timeout_us: Triton's request timeout of the last request, in microseconds.
    """

    def __init__(self):
        self.failures, self.delay, self.requests, self.headers = [], 0.0, 0, {}
        self.timeout_us = None
        self.released = threading.Event()

    def answer(self, pixels, classes):
        """Return the strings or probabilities for pixels."""
        self.requests += 1
        if self.delay:
            self.released.wait(self.delay)
        rows = np.zeros((len(pixels), 3), np.float32)
        rows[np.arange(len(pixels)), pixels[:, 0, 0, 0] % 3] = 1.0
        if not classes:
            return rows.tobytes(), "FP32", rows.shape
        content = b""
        for row in rows:
            for index in np.argsort(-row)[:classes]:
                text = f"{row[index]:.6f}:{index}:class {index}".encode()
                content += len(text).to_bytes(4, "little") + text
        return content, "BYTES", (len(rows), min(classes, 3))


class _Grpc(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, fake):
        self.fake = fake

    def ModelReady(self, request, context):  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=True)

    def ModelMetadata(self, request, context):  # noqa: N802
        return json_format.ParseDict(METADATA, service_pb2.ModelMetadataResponse())

    def ModelConfig(self, request, context):  # noqa: N802
        config = json_format.ParseDict(CONFIG, model_config_pb2.ModelConfig())
        return service_pb2.ModelConfigResponse(config=config)

    def RepositoryIndex(self, request, context):  # noqa: N802
        index = {"models": [{"name": "fake", "version": "1", "state": "READY"}]}
        return json_format.ParseDict(index, service_pb2.RepositoryIndexResponse())

    def ModelInfer(self, request, context):  # noqa: N802
        fake = self.fake
        fake.headers = dict(context.invocation_metadata())
        fake.timeout_us = request.parameters["timeout"].int64_param
        if fake.failures:
            fake.requests += 1
            status, message = fake.failures.pop(0)
            context.abort(grpc.StatusCode[status], message)
        (tensor,) = request.inputs
        pixels = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(tensor.shape)
        (wanted,) = request.outputs
        classes = wanted.parameters["classification"].int64_param
        content, dtype, shape = fake.answer(pixels, classes)
        response = service_pb2.ModelInferResponse(model_name="fake", model_version="1")
        response.outputs.add(name=wanted.name, datatype=dtype, shape=shape)
        response.raw_output_contents.append(content)
        return response


_HTTP = {"UNAVAILABLE": 503, "RESOURCE_EXHAUSTED": 429, "INVALID_ARGUMENT": 400, "INTERNAL": 500}


def _handler(fake):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self, status, content, **headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self):
            found = CONFIG if self.path.endswith("/config") else METADATA
            self.reply(200, b"" if self.path.endswith("/ready") else json.dumps(found).encode())

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path.endswith("/index"):
                index = [{"name": "fake", "version": "1", "state": "READY"}]
                return self.reply(200, json.dumps(index).encode())
            fake.headers = {name.lower(): value for name, value in self.headers.items()}
            length = int(self.headers["Inference-Header-Content-Length"])
            head = json.loads(body[:length])
            fake.timeout_us = head["parameters"].get("timeout")
            if fake.failures:
                fake.requests += 1
                status, message = fake.failures.pop(0)
                if status == "DROP":
                    self.close_connection = True
                    return self.connection.close()
                content = json.dumps({"error": message}).encode()
                return self.reply(_HTTP[status], content, Retry_After="0")
            pixels = np.frombuffer(body[length:], np.uint8).reshape(head["inputs"][0]["shape"])
            (wanted,) = head["outputs"]
            classes = wanted["parameters"].get("classification", 0)
            content, dtype, shape = fake.answer(pixels, classes)
            output = {"name": wanted["name"], "datatype": dtype, "shape": shape}
            output["parameters"] = {"binary_data_size": len(content)}
            head = json.dumps({"model_version": "1", "outputs": [output]}).encode()
            return self.reply(200, head + content, Inference_Header_Content_Length=str(len(head)))

        def log_message(self, *arguments):
            pass

    return Handler


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """Say nothing of clients that left."""


@contextmanager
def serve_fake(protocol, host="127.0.0.1"):
    """Yield a fake server and its URL."""
    fake = FakeTriton()
    if protocol == "grpc":
        server = grpc.server(ThreadPoolExecutor(16))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Grpc(fake), server)
        port = server.add_insecure_port(f"{host}:0")
        server.start()
        try:
            yield fake, f"{host}:{port}"
        finally:
            fake.released.set()
            server.stop(None).wait()
        return
    with _Quiet((host, 0), _handler(fake)) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield fake, f"http://{host}:{server.server_address[1]}"
        fake.released.set()
        server.shutdown()


def wait_for(condition, seconds=60):
    """Wait until something holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)
