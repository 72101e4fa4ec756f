"""Answers that a server should not give."""

import asyncio
import contextlib
import queue
import socket
import ssl
import struct
import threading

import numpy as np
import pytest
from fake_triton import serve_fake

from delugeserve_client import AsyncClassifier, Classifier, InferenceFailed
from delugeserve_client.address import parse_address
from delugeserve_client.core.failures import Kind
from delugeserve_client.explaining import failure_of
from delugeserve_client.served import parse_predictions
from delugeserve_client.transports.connection import CallFailed, Options
from delugeserve_client.transports.messages import Form, image_request, pixel_request, read_reply
from delugeserve_client.transports.over_http import HttpConnection

FORM = Form("m", "", "image", "UINT8", (2, 4), (("scores", 0), ("labels", 1)))
ROWS = struct.pack("<I", 1) + b"a" + struct.pack("<I", 0)
SCORES = ("scores", "FP32", (2, 3), bytes(24))
LABELS = ("labels", "BYTES", (2, 1), ROWS)


def test_a_reply():
    reply = read_reply(FORM, "7", [SCORES, LABELS])
    assert reply.outputs["labels"] == [[b"a"], [b""]]
    assert reply.outputs["scores"].shape == (2, 3)


@pytest.mark.parametrize(
    "outputs",
    [
        [],
        [SCORES],
        [LABELS],
        [("scores", "FP32", (1, 3), bytes(12)), LABELS],  # too few rows
        [("scores", "FP32", (2, 3), bytes(23)), LABELS],
        [("scores", "FP32", (), bytes(4)), LABELS],
        [("scores", "FP16", (2, 3), bytes(12)), LABELS],
        [SCORES, ("labels", "BYTES", (2, 1), ROWS[:-1])],
        [SCORES, ("labels", "BYTES", (2, 1), ROWS + b"\1")],
        [SCORES, ("labels", "BYTES", (2, 1), b"\xff\xff\xff\xff")],
        [SCORES, ("labels", "BYTES", (2, 0), b"")],
        [SCORES, ("labels", "BYTES", (), b"")],
        [SCORES, ("labels", "FP32", (2, 1), bytes(8))],
    ],
)
def test_damaged_replies(outputs):
    with pytest.raises(ValueError, match=r"output|rows|size|shape"):
        read_reply(FORM, "", outputs)


@pytest.mark.parametrize("string", [b"", b"1.0", b"high:3:cat", b"0.5:x"])
def test_odd_predictions(string):
    with pytest.raises(InferenceFailed):
        parse_predictions([string])


def infer(kind, url, pixels):
    """Return the answer to pixels, of a new classifier of either kind."""

    async def use():
        async with AsyncClassifier(url) as classifier:
            return await classifier.infer(pixels)

    if kind is AsyncClassifier:
        return asyncio.run(use())
    with Classifier(url) as classifier:
        return classifier.infer(pixels)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("kind", [Classifier, AsyncClassifier])
def test_a_damaged_answer_ends_its_request(protocol, kind, monkeypatch):
    monkeypatch.setattr(
        "fake_triton.FakeTriton.answer", lambda *_: (b"\xff\xff\xff", "BYTES", (9, 1))
    )
    with serve_fake(protocol) as (_, url), pytest.raises(InferenceFailed, match="damaged"):
        infer(kind, url, np.zeros((9, 2, 2, 3), np.uint8))


@contextlib.contextmanager
def raw_server(answer):
    """Yield the port of a server that hands each of its connections to a function."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=answer, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("begun", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_slow_drip_does_not_outlive_the_deadline(begun):
    ended = threading.Event()

    def answer(connection):
        connection.recv(2**16)
        with contextlib.suppress(OSError):
            connection.sendall(begun)
            while not ended.wait(0.02):
                connection.sendall(b"x")

    with raw_server(answer) as port:
        http = HttpConnection(parse_address(f"http://127.0.0.1:{port}"), Options())
        found = queue.SimpleQueue()

        def ask():
            try:
                http.ask("server", timeout=0.1)
            except CallFailed as error:
                found.put(error.failure.kind)

        threading.Thread(target=ask, daemon=True).start()
        assert found.get(timeout=10) is Kind.TIMEOUT
        ended.set()
        http.close()


def test_an_answer_that_comes_before_the_request_is_sent():
    """As of a front that refuses a body for its length."""
    refusal = b'{"error": "The request is larger than 1 MiB."}'

    def answer(connection):
        connection.recv(100)
        head = f"HTTP/1.1 413 X\r\nContent-Length: {len(refusal)}\r\n\r\n"
        connection.sendall(head.encode() + refusal)
        connection.shutdown(socket.SHUT_RD)
        connection.close()

    with raw_server(answer) as port:
        http = HttpConnection(parse_address(f"http://127.0.0.1:{port}"), Options())
        request = image_request("m", "", "image", [bytes(2**24)] * 2, {"probabilities": 1})
        with pytest.raises(CallFailed) as caught:
            http.infer(request, 10.0)
        assert caught.value.failure.kind is Kind.REFUSED
        http.close()


def test_a_cancelled_request_is_not_sent_again():
    """The connection that it breaks looks like one that the server closed while it was idle."""
    seen = queue.SimpleQueue()

    def answer(connection):
        while head := connection.recv(2**16):
            if head.startswith((b"GET", b"POST")):  # not the rest of a request
                seen.put(head[:4])
            if head.startswith(b"GET"):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    with raw_server(answer) as port:
        http = HttpConnection(parse_address(f"http://127.0.0.1:{port}"), Options())
        assert http.ask("server", timeout=10) == {}  # its connection is used again
        ended = queue.SimpleQueue()
        request = pixel_request("m", "", "image", np.zeros((1, 2), np.uint8), {"p": 0})
        cancel = http.start(request, 20.0, lambda reply, failure: ended.put(failure.kind))
        assert [seen.get(timeout=10), seen.get(timeout=10)] == [b"GET ", b"POST"]
        cancel()
        assert ended.get(timeout=10) is Kind.CLOSED
        assert seen.empty()
        http.close()


def test_a_probe_does_not_wait_for_requests_that_hang():
    ready, hung = threading.Event(), threading.Semaphore(0)

    def answer(connection):
        if connection.recv(2**16).startswith(b"GET"):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        else:
            hung.release()
        ready.wait(30)

    with raw_server(answer) as port:
        http = HttpConnection(parse_address(f"http://127.0.0.1:{port}"), Options())
        request = pixel_request("m", "", "image", np.zeros((1, 2), np.uint8), {"p": 0})
        for _ in range(70):
            http.start(request, 30.0, lambda *_: None)
        for _ in range(70):
            assert hung.acquire(timeout=20)
        found = queue.SimpleQueue()
        http.probe("m", "", 20.0, found.put)
        assert found.get(timeout=20)
        http.close()
        ready.set()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), Kind.GONE),
        (ssl.SSLZeroReturnError(6, "TLS/SSL connection has been closed"), Kind.GONE),
        (ssl.SSLCertVerificationError(1, "expired"), Kind.DENIED),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), Kind.DENIED),
    ],
)
def test_errors_of_tls(error, kind):
    assert failure_of(error).kind is kind


@pytest.mark.parametrize("kind", [Classifier, AsyncClassifier])
def test_a_request_that_the_server_cancels_is_repeated(kind):
    with serve_fake("grpc") as (fake, url):
        fake.failures = [("CANCELLED", "RST_STREAM")]
        assert infer(kind, url, np.ones((1, 2, 2, 3), np.uint8)).argmax() == 1
        assert fake.requests == 2
