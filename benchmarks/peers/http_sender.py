"""A sender over HTTP/1.1 that costs the client little.

It keeps connections open, sends one request at a time on each, and opens another where all are in
use. The thread that sends writes the prepared bytes to the socket itself; one other thread reads
all answers. Nothing is handed from one thread to another, so that a request costs a third of what
it costs aiohttp's client. It knows as much of HTTP as the servers' answers need: a Content-Length,
chunks, and a server that closes idle connections.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from benchmarks.peers.interface import Form, Model
from delugeserve.load import Done, Target

_LIMIT = 512  # connections; further requests wait for one
_RECEIVE = 1 << 16
_TICK = 0.25  # seconds between looks for requests that have timed out


@dataclass(frozen=True)
class OpenHttp:
    """Opens an :class:`HttpSender`; can be pickled.

    Attributes:
        model: the model.
        form: how it is asked.
        images: the images to send, by sample: pixels, or files.
    """

    model: Model
    form: Form
    images: Sequence[bytes] = field(repr=False)

    def __call__(self, target: Target) -> HttpSender:
        """Open the sender for a target's URL."""
        return HttpSender(target, self)


class HttpError(Exception):
    """An answer is not of HTTP."""


@dataclass(eq=False)
class _Exchange:
    """A request on its way."""

    message: bytes
    done: Done
    deadline: float


class _Connection:
    """A socket, and the request that is on it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.exchange: _Exchange | None = None
        self.unsent = b""
        self.received = b""
        self.used = False  # it has answered a request


class HttpSender:
    """Sends prepared requests, and gives their answers to the test.

    Args:
        target: with the server's URL.
        opened: what to send.
    """

    def __init__(self, target: Target, opened: OpenHttp) -> None:
        url = urlsplit(target.url)
        self._address = (url.hostname or "127.0.0.1", url.port or 80)
        self._messages = [
            opened.form.request(opened.model, image, url.netloc) for image in opened.images
        ]
        self._read, self._classes = opened.form.read, opened.model.classes
        self._timeout = target.timeout
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._waiting: deque[_Exchange] = deque()
        self._open: set[_Connection] = set()
        self._selector = selectors.DefaultSelector()
        self._closing = False
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def send(self, sample_ids: Sequence[int], done: Done) -> None:
        """Send one image; see :class:`delugeserve.load.Sender`."""
        (sample,) = sample_ids
        self._start(_Exchange(self._messages[sample], done, time.monotonic() + self._timeout))

    def close(self) -> None:
        """Close the connections."""
        self._closing = True
        self._thread.join()
        for connection in self._open:
            connection.socket.close()
        self._selector.close()

    def _start(self, exchange: _Exchange, *, fresh: bool = False) -> None:
        with self._lock:
            connection = self._idle.pop() if self._idle and not fresh else None
            if connection is not None:
                connection.exchange = exchange
            elif len(self._open) >= _LIMIT:
                self._waiting.append(exchange)
                return
        if connection is None:
            try:
                connection = _Connection(self._address)
            except OSError as error:
                exchange.done(None, f"cannot connect: {error}")
                return
            connection.exchange = exchange
            with self._lock:
                self._open.add(connection)
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        self._write(connection, exchange.message)

    def _write(self, connection: _Connection, message: bytes) -> None:
        try:
            sent = connection.socket.send(message)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the thread that reads finds the connection closed, and sends it again
        if sent < len(message):
            connection.unsent = message[sent:]
            both = selectors.EVENT_READ | selectors.EVENT_WRITE
            with contextlib.suppress(KeyError, ValueError):  # the other thread has just closed it
                self._selector.modify(connection.socket, both, connection)

    def _receive(self) -> None:
        looked = time.monotonic()
        while not self._closing:
            for key, events in self._selector.select(_TICK):
                connection: _Connection = key.data
                if events & selectors.EVENT_WRITE:
                    self._write_rest(connection)
                if events & selectors.EVENT_READ:
                    self._read_some(connection)
            if (now := time.monotonic()) - looked > _TICK:
                looked = now
                self._end_late(now)

    def _write_rest(self, connection: _Connection) -> None:
        with contextlib.suppress(OSError):  # reading finds the connection closed
            sent = connection.socket.send(connection.unsent)
            connection.unsent = connection.unsent[sent:]
        if not connection.unsent:
            self._selector.modify(connection.socket, selectors.EVENT_READ, connection)

    def _read_some(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(_RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost(connection, "the server closed the connection")
            return
        connection.received = connection.received + data if connection.received else data
        try:
            answer = parse_answer(connection.received)
        except HttpError as error:
            self._lost(connection, str(error))
            return
        if answer is not None:
            self._answered(connection, answer)

    def _answered(self, connection: _Connection, answer: Answer) -> None:
        exchange, connection.exchange = connection.exchange, None
        connection.received, connection.used = b"", True
        if answer.keep and exchange is not None:
            self._release(connection)
        else:
            self._forget(connection)
        if exchange is None:
            return
        if answer.status != 200:
            start = answer.body[:200].decode("utf-8", "replace")
            exchange.done(None, f"HTTP {answer.status}: {start}")
            return
        try:
            probabilities = self._read(answer.body, self._classes)
        except Exception as error:
            exchange.done(None, f"unreadable answer: {type(error).__name__}: {error}")
            return
        exchange.done(probabilities, None)

    def _lost(self, connection: _Connection, reason: str, *, again: bool = True) -> None:
        """Forget a connection; send its request once more if the server had closed it before."""
        exchange = self._forget(connection)
        if exchange is None:
            return
        if again and connection.used and not connection.received:  # as RFC 9112, 9.3.1 allows
            self._start(exchange, fresh=True)  # a new connection gives it no third try
        else:
            exchange.done(None, reason)

    def _release(self, connection: _Connection) -> None:
        with self._lock:
            if not self._waiting:
                self._idle.append(connection)
                return
            connection.exchange = exchange = self._waiting.popleft()
        self._write(connection, exchange.message)

    def _forget(self, connection: _Connection) -> _Exchange | None:
        """Close a connection, and return the request that was on it."""
        with self._lock:
            exchange, connection.exchange = connection.exchange, None
            self._open.discard(connection)
            if connection in self._idle:
                self._idle.remove(connection)
            waiting = self._waiting.popleft() if self._waiting else None
        self._selector.unregister(connection.socket)
        connection.socket.close()
        if waiting is not None:
            self._start(waiting)
        return exchange

    def _end_late(self, now: float) -> None:
        with self._lock:
            late = [one for one in self._open if one.exchange and now > one.exchange.deadline]
        for connection in late:
            self._lost(connection, f"no answer within {self._timeout:g} s", again=False)


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer.

    Attributes:
        status: status code.
        body: decoded body.
        keep: the connection stays open.
    """

    status: int
    body: bytes
    keep: bool


def parse_answer(received: bytes) -> Answer | None:
    """Return an answer; None while it is incomplete.

    Raises:
        HttpError: it is not an answer of HTTP/1.1, or its length is not given.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = received[:end].lower()
    if not head.startswith(b"http/1."):
        raise HttpError(f"not HTTP: {received[:40]!r}")
    status = int(head[9:12])
    keep = b"\r\nconnection: close" not in head
    start = end + 4
    length = _header(head, b"\r\ncontent-length:")
    if length is not None:
        stop = start + int(length)
        return Answer(status, received[start:stop], keep) if len(received) >= stop else None
    if b"chunked" in (_header(head, b"\r\ntransfer-encoding:") or b""):
        body = _join_chunks(received, start)
        return None if body is None else Answer(status, body, keep)
    raise HttpError(f"HTTP {status} without a length")


def _header(head: bytes, name: bytes) -> bytes | None:
    start = head.find(name)
    if start < 0:
        return None
    start += len(name)
    end = head.find(b"\r\n", start)
    return head[start:] if end < 0 else head[start:end]


def _join_chunks(received: bytes, start: int) -> bytes | None:
    parts = []
    while True:
        end = received.find(b"\r\n", start)
        if end < 0:
            return None
        size = int(received[start:end].split(b";")[0], 16)
        start = end + 2
        if len(received) < start + size + 2:
            return None
        if size == 0:
            return b"".join(parts)
        parts.append(received[start : start + size])
        start += size + 2
