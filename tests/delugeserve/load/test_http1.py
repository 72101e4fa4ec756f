import http.server
import json
import threading

import numpy as np
import pytest
from load_stub import ANSWER, ask

from delugeserve.load import HttpSender, Target


class Echo(HttpSender):
    """Sends the images' pixels, and reads the probabilities from the body."""

    def path(self, sample_ids):
        return "/classify"

    def body(self, sample_ids):
        return self.target.images[list(sample_ids)].tobytes()

    def read(self, head, body):
        return bytes(body)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    status, chunked, close, hold = 200, False, False, None

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.hold is not None:
            self.hold.wait(60)
        body = ANSWER.tobytes() if self.status == 200 else b"too many"
        self.send_response(self.status)
        if self.close:
            self.send_header("Connection", "close")
        if self.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for part in (body[:5], body[5:]):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(**attributes):
        handler = type("Chosen", (Handler,), attributes)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        images = np.zeros((4, 2, 2, 3), np.uint8)
        return Target(f"http://127.0.0.1:{server.server_port}", "m", images, timeout=20.0)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("how", [{}, {"chunked": True}, {"close": True}])
def test_answers(serve, how):
    sender = Echo(serve(**how), most=3)
    answers = ask(sender, *([i % 4] for i in range(10)))
    answers += ask(sender, [0])  # on a connection that was used before, or a new one
    sender.close()
    assert answers == [(ANSWER.tobytes(), None)] * 11


def test_an_error_of_the_server(serve):
    sender = Echo(serve(status=429))
    answers = ask(sender, [0])
    sender.close()
    assert answers == [(None, "HTTP 429: too many")]


def test_an_answer_that_cannot_be_read(serve):
    class Strict(Echo):
        def read(self, head, body):
            return json.loads(body)

    sender = Strict(serve())
    ((answer, error),) = ask(sender, [0])
    sender.close()
    assert answer is None
    assert error.startswith("INTERNAL")


def test_a_deadline_that_passes_also_for_those_that_wait_for_a_connection(serve):
    hold = threading.Event()
    target = serve(hold=hold)
    sender = Echo(Target(target.url, "m", target.images, timeout=0.2), most=1)
    answers = ask(sender, [0], [1])
    hold.set()
    sender.close()
    assert [answer for answer, _ in answers] == [None, None]
    assert all(error.startswith("DEADLINE_EXCEEDED") for _, error in answers)


def test_no_server():
    images = np.zeros((1, 2, 2, 3), np.uint8)
    sender = Echo(Target("http://127.0.0.1:1", "m", images, timeout=1.0))
    ((answer, error),) = ask(sender, [0])
    sender.close()
    assert answer is None
    assert error.startswith("UNAVAILABLE")
