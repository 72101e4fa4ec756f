"""Hostile requests are sent as they are, whatever they hold."""

import socketserver
import threading
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


class _Recorder(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.server.line = self.rfile.readline()
        self.wfile.write(b"HTTP/1.1 400 Bad Request\r\n\r\nno")


def test_a_path_that_is_not_ascii_reaches_the_server(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from hostile.request import HostileRequest
    from hostile.sending import send

    with socketserver.TCPServer(("127.0.0.1", 0), _Recorder) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        request = HostileRequest("query", "classify", "/classify?top_k=١", frozenset({400}))  # noqa: RUF001
        assert send(server.server_address, request) == (400, b"no")
        assert server.line == "POST /classify?top_k=١ HTTP/1.1\r\n".encode()  # noqa: RUF001
