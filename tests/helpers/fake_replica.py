"""A stand-in for a tritonserver: gRPC and HTTP, without models."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc

from delugeserve.serving.front.settings import Upstream

SERVING = b"\x08\x01"
NOT_SERVING = b"\x08\x02"
OPTIONS = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)]


class FakeReplica:
    """Answers every inference with its name, over gRPC and HTTP.

    Attributes:
        name: its name.
        seen: the requests so far: method or path, headers, body.
        healthy: what its health check says.
        answer: called for each inference with the gRPC context, before the answer.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.healthy = True
        self.answer: Callable[[grpc.ServicerContext], None] = lambda context: None
        self.http_answer: Callable[[], tuple[int, bytes]] = lambda: (200, name.encode())
        self._grpc = grpc.server(ThreadPoolExecutor(16), options=OPTIONS)
        self._grpc.add_generic_rpc_handlers((_Handler(self),))
        self.grpc_port = self._grpc.add_insecure_port("127.0.0.1:0")
        self._grpc.start()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _http_handler(self))
        self._http.daemon_threads = True
        self.http_port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def upstream(self) -> Upstream:
        return Upstream(self.name, self.grpc_port, self.http_port)

    def inferences(self) -> int:
        return sum(method.endswith(("ModelInfer", "/infer")) for method, _, _ in self.seen)

    def stop(self) -> None:
        """Break all connections, as a killed process does."""
        self._grpc.stop(0)
        self._http.shutdown()
        self._http.server_close()


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, replica: FakeReplica) -> None:
        self._replica = replica

    def service(self, details):
        if details.method == "/grpc.health.v1.Health/Check":
            return grpc.unary_unary_rpc_method_handler(
                lambda request, context: SERVING if self._replica.healthy else NOT_SERVING
            )
        headers = dict(details.invocation_metadata)

        def answer(request, context):
            self._replica.seen.append((details.method, headers, request))
            self._replica.answer(context)
            return self._replica.name.encode()

        return grpc.unary_unary_rpc_method_handler(answer)


def _http_handler(replica: FakeReplica) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            if self.path.startswith("/v2/health"):
                self._send(200 if replica.healthy else 503, b"")
            else:
                self.do_POST()

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            replica.seen.append((self.path, headers, body))
            self._send(*replica.http_answer())

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args) -> None:
            pass

    return Handler


class FakeCollector:
    """A collector of traces: keeps the messages that it gets, as bytes."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self._grpc = grpc.server(ThreadPoolExecutor(2))
        self._grpc.add_generic_rpc_handlers((self,))
        self.port = self._grpc.add_insecure_port("127.0.0.1:0")
        self._grpc.start()

    def service(self, details):
        def take(message, context):
            self.messages.append(message)
            return b""

        return grpc.unary_unary_rpc_method_handler(take)

    def stop(self) -> None:
        self._grpc.stop(0)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
