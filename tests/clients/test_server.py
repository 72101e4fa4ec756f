import contextlib
import http.server
import socket
import threading

import pytest

from delugeserve_client import Classifier
from delugeserve_client.errors import ServerTimeout, ServerUnavailable
from delugeserve_client.server import ServerDescription


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def log_message(self, *arguments):
        pass


def test_a_web_server_that_is_not_triton():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        with pytest.raises(ServerUnavailable, match="not a Triton Inference Server") as caught:
            Classifier(url, "colour")
        assert caught.value.url == url
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_server_that_hangs(scheme):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # connections succeed, and nothing ever answers
        with pytest.raises(ServerTimeout) as caught:
            Classifier(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}", timeout=0.3)
        assert caught.value.timeout == 0.3


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_nobody_describes_itself(scheme):
    server = ServerDescription(f"{scheme}://127.0.0.1:1", timeout=5)
    with contextlib.closing(server), pytest.raises(ServerUnavailable):
        server.read("statistics", "m")
