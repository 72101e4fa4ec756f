import dataclasses
import http.server
import json
import socket
import ssl
import threading

import numpy as np
import pytest
import trustme
from load_stub import ANSWER, ask

from delugeserve.load import HttpSender, Target
from delugeserve_client.credentials import Credentials


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
    status, chunked, close, hold, slow = 200, False, False, None, b""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.hold is not None and body.startswith(self.slow):
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

    def start(tls=None, **attributes):
        handler = type("Chosen", (Handler,), attributes)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        images = np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3)
        scheme = "http" if tls is None else "https"
        return Target(f"{scheme}://127.0.0.1:{server.server_port}", "m", images, timeout=20.0)

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


def test_a_deadline_that_passes_also_for_those_that_wait_for_a_connection(serve, caplog):
    hold = threading.Event()
    target = serve(hold=hold)
    sender = Echo(Target(target.url, "m", target.images, timeout=0.2), most=1)
    answers = ask(sender, [0], [1], [2])
    hold.set()
    sender.close()
    assert [answer for answer, _ in answers] == [None] * 3
    assert all(error.startswith("DEADLINE_EXCEEDED") for _, error in answers)
    assert len(caplog.records) == 1  # it says once that requests wait in the client


@pytest.fixture
def raw():
    """Starts a server that reads a request, answers with some bytes, and is gone."""
    threads = []

    def start(reply):
        listener = socket.create_server(("127.0.0.1", 0))

        def serve():
            with listener:
                connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(reply)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        images = np.zeros((1, 2, 2, 3), np.uint8)
        return Target(f"http://127.0.0.1:{listener.getsockname()[1]}", "m", images, timeout=20.0)

    yield start
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n" + ANSWER.tobytes(), (ANSWER.tobytes(), None)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", (None, "UNAVAILABLE")),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n", (None, "UNAVAILABLE")),
        (b"SSH-2.0\r\n\r\n", (None, "UNAVAILABLE")),
    ],
)
def test_an_answer_that_ends_with_the_connection_or_is_none(raw, reply, expected):
    sender = Echo(raw(reply))
    ((answer, error),) = ask(sender, [0])
    sender.close()
    assert (answer, error and error[:11]) == expected


def test_a_server_that_is_gone_fails_those_that_wait_for_a_connection_at_once(raw):
    sender = Echo(raw(b""), most=1)
    answers = ask(sender, *([0] for _ in range(300)))  # more than the stack would hold
    sender.close()
    assert {error[:11] for _, error in answers} == {"UNAVAILABLE"}


def test_a_request_larger_than_the_buffers_of_a_socket(serve):
    images = np.zeros((1, 2000, 2000, 3), np.uint8)
    sender = Echo(Target(serve().url, "m", images))
    answers = ask(sender, [0])
    sender.close()
    assert answers == [(ANSWER.tobytes(), None)]


def test_a_slow_answer_over_tls_does_not_delay_others(serve, tmp_path):
    """After the handshake, TLS 1.3 sends tickets: bytes to read that bring no data."""
    authority, hold = trustme.CA(), threading.Event()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    target = serve(tls, hold=hold, slow=bytes([12]))  # the second image
    credentials = Credentials(ca=tmp_path / "ca.pem")
    sender = Echo(dataclasses.replace(target, credentials=credentials))
    slow, landed = [], threading.Semaphore(0)
    sender.send([1], lambda *answer: (slow.append(answer), landed.release()))
    answers = ask(sender, [0])
    assert slow == []
    hold.set()
    assert landed.acquire(timeout=20)
    sender.close()
    assert answers == slow == [(ANSWER.tobytes(), None)]


def test_no_server():
    images = np.zeros((1, 2, 2, 3), np.uint8)
    sender = Echo(Target("http://127.0.0.1:1", "m", images, timeout=1.0))
    ((answer, error),) = ask(sender, [0])
    sender.close()
    assert answer is None
    assert error.startswith("UNAVAILABLE")
