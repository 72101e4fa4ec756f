"""The limit for a request's headers."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("uvicorn", reason="the gateway needs the extra 'server'")
pytest.importorskip("httptools", reason="the gateway needs the extra 'server'")

import uvicorn
from uvicorn.server import ServerState

from delugeserve.serving.gateway.protocol import LimitedProtocol

CHUNK = b"a" * 16 * 1024


class Transport(asyncio.Transport):
    def __init__(self):
        super().__init__()
        self.written, self.closed = b"", False

    def write(self, data):
        self.written += data

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed

    def pause_reading(self):
        pass


async def _answer(*chunks):
    received = []

    async def app(scope, receive, send):
        received.append(scope["path"])

    config = uvicorn.Config(app, log_config=None)
    config.load()
    protocol, transport = LimitedProtocol(config, ServerState(), {}), Transport()
    protocol.connection_made(transport)
    for chunk in chunks:
        protocol.data_received(chunk)
    await asyncio.sleep(0)
    return transport, received


@pytest.mark.parametrize(
    "start", [b"GET / HTTP/1.1\r\nx: ", b"GET /", b"GET / HTTP/1.1\r\nhost: x\r\n"]
)
def test_headers_that_do_not_end_are_refused(start):
    last = b": b\r\n" if start.endswith(b"\r\n") else b""
    transport, received = asyncio.run(_answer(start, *[CHUNK + last] * 5))
    assert transport.closed
    assert transport.written.startswith(b"HTTP/1.1 400 ")
    assert not received


def test_bodies_do_not_count():
    head = b"POST /classify HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (8 * len(CHUNK))
    transport, received = asyncio.run(_answer(head, *[CHUNK] * 8, head))
    assert received == ["/classify"]
    assert not transport.closed or transport.written.startswith(b"HTTP/1.1 500 ")


BODY = b"b" * 8 * len(CHUNK)  # more than headers may have
HEAD = b"POST /classify HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(BODY)


@pytest.mark.parametrize(
    "chunks",
    [(HEAD + BODY,), (HEAD, BODY), (HEAD + BODY[:1], BODY[1:]), (HEAD, BODY[:1], BODY[1:] + HEAD)],
    ids=["all at once", "after the headers", "in two parts", "with the next headers"],
)
def test_a_large_body_that_ends_in_one_read_does_not_count(chunks):
    transport, received = asyncio.run(_answer(*chunks))
    assert received[0] == "/classify"
    assert b" 400 " not in transport.written


def test_the_headers_after_a_body_are_limited_too():
    transport, _received = asyncio.run(_answer(HEAD, BODY, b"GET / HTTP/1.1\r\nx: ", *[CHUNK] * 5))
    assert b" 400 " in transport.written or transport.closed
