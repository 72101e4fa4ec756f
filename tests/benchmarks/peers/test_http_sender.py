"""The HTTP sender: every request gets one answer, whatever the server does."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
from peer_model import IMAGES, MODEL
from stub_peer import StubServer, answer, plain

from benchmarks.peers.forms import PLAIN_PIXELS
from benchmarks.peers.http_sender import OpenHttp, PeerSender
from delugeserve.load import Target


def open_sender(port: int, timeout: float = 5.0) -> PeerSender:
    images = np.zeros((10, 2, 2, 3), np.uint8)
    target = Target(f"http://127.0.0.1:{port}", "stub", images, timeout=timeout)
    return pickle.loads(pickle.dumps(OpenHttp(MODEL, PLAIN_PIXELS, IMAGES)))(target)


class Answers:
    """Collects what a sender brings back."""

    def __init__(self) -> None:
        self.found: dict[int, tuple[bytes | None, str | None]] = {}
        self._landed = threading.Semaphore(0)

    def send(self, sender: PeerSender, number: int) -> None:
        def done(content: bytes | None, error: str | None) -> None:
            assert number not in self.found, "answered twice"
            self.found[number] = content, error
            self._landed.release()

        sender.send([number % len(IMAGES)], done)

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self._landed.acquire(timeout=10)

    def ask(self, sender: PeerSender, number: int) -> tuple[bytes | None, str | None]:
        self.send(sender, number)
        self.wait(1)
        return self.found[number]


def chunked(body: bytes) -> list[bytes]:
    return [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\n" + body[:3],
        b"\r\n%x\r\n" % len(body[3:]) + body[3:] + b"\r\n",
        b"0\r\n\r\n",
    ]


def bytewise(body: bytes) -> list[bytes]:
    (whole,) = plain(body)
    return [whole[i : i + 1] for i in range(len(whole))]


@pytest.mark.parametrize("respond", [plain, chunked, bytewise])
def test_answers_arrive_whole_and_connections_are_used_again(respond):
    with StubServer(lambda image: respond(answer(image))) as server:
        sender, answers = open_sender(server.port), Answers()
        for number in range(5):
            assert answers.ask(sender, number) == (answer(IMAGES[number]), None)
        sender.close()
    assert server.connections == 1


def test_requests_are_in_flight_together():
    with StubServer(delay=0.05) as server:
        sender, answers = open_sender(server.port), Answers()
        for number in range(40):
            answers.send(sender, number)
        answers.wait(40)
        sender.close()
    assert answers.found == {n: (answer(IMAGES[n % 10]), None) for n in range(40)}
    assert server.connections == 40


def test_a_request_on_a_connection_that_the_server_closed_is_sent_again():
    with StubServer(lambda image: [*plain(answer(image)), b""]) as server:
        sender, answers = open_sender(server.port), Answers()
        for number in range(20):
            assert answers.ask(sender, number) == (answer(IMAGES[number % 10]), None)
        sender.close()
    assert server.connections == 20


def test_a_server_that_closes_without_an_answer_is_an_error():
    with StubServer(lambda _: [b""]) as server:
        sender, answers = open_sender(server.port), Answers()
        content, error = answers.ask(sender, 0)
        assert content is None
        assert "closed" in (error or "")
        sender.close()
    assert server.requests == 1, "a request on a new connection is not sent twice"
