"""A sender over HTTP/1.1 that costs little: messages built before, answers read as bytes."""

from __future__ import annotations

import contextlib
import logging
import re
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from delugeserve.load.senders.base import Done, deliver
from delugeserve.load.senders.messages import make_unique
from delugeserve.load.target import Target
from delugeserve_client.address import parse_address
from delugeserve_client.credentials import Credentials

_log = logging.getLogger(__name__)

_CHUNK = 1 << 18
_CHECK_EVERY = 0.25  # seconds; how late a missed deadline may be noticed
_NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class _Request(NamedTuple):
    """A request.

    Attributes:
        message: its bytes.
        done: called with the answer.
        deadline: when it counts as failed, on the monotonic clock.
    """

    message: bytes
    done: Done
    deadline: float


@dataclass(eq=False)
class _Connection:
    """A connection, and the request in flight on it.

    Attributes:
        socket: the socket, which does not block; None before it is connected.
        request: the request; None while the connection is idle.
        unsent: what the socket has not yet taken of it.
        received: what has been read of the answer.
        used: it has brought an answer before.
        lock: held to read or write; TLS does not allow both at once.
    """

    socket: socket.socket | None = None
    request: _Request | None = None
    unsent: bytes = b""
    received: bytearray = field(default_factory=bytearray)
    used: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class HttpSender:
    """Sends POST requests over as many connections as there are requests in flight.

    A server may close an idle connection at any time. A request that meets this is sent once more,
    on a new connection, as RFC 9112 (section 9.3.1) allows.

    A subclass says what a request is and how an answer is read, by :meth:`path`, :meth:`body`,
    :meth:`headers` and :meth:`read`.

    Args:
        target: what to send, and where.
        most: largest number of connections; more requests wait for one.
    """

    def __init__(self, target: Target, most: int = 512) -> None:
        address = parse_address(target.url)
        name, _, port = address.host.rpartition(":")
        self.target = target
        self._server, self._host = (name.strip("[]"), int(port)), address.host
        credentials = target.credentials or Credentials.from_environment()
        self._tls = credentials.tls_context() if address.secure else None
        self._key, self._most = credentials.api_key, most
        self._built: dict[tuple[int, ...], bytes] = {}
        self._lock = threading.RLock()
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._waiting: deque[_Request] = deque()
        self._sending_waiting, self._warned = False, False
        self._selector = selectors.DefaultSelector()
        self._closed = False
        self._reader = threading.Thread(target=self._read_all, daemon=True, name="load-reader")
        self._reader.start()

    def path(self, sample_ids: Sequence[int]) -> str:
        """Return the path of the request for some images."""
        raise NotImplementedError

    def body(self, sample_ids: Sequence[int]) -> bytes:
        """Return the body of the request for some images."""
        raise NotImplementedError

    def headers(self, sample_ids: Sequence[int]) -> dict[str, str]:
        """Return further headers of the request; by default its content type."""
        return {"Content-Type": "application/octet-stream"}

    def read(self, head: bytes, body: bytes) -> bytes:
        """Return the probabilities in an answer with status 200, as the bytes of float32.

        Args:
            head: the status line and the headers.
            body: the body.
        """
        raise NotImplementedError

    def send(self, sample_ids: Sequence[int], done: Done) -> None:  # noqa: D102
        key = tuple(sample_ids)
        message = self._built.get(key)
        if message is None:
            message = self._build(key)
            if len(self._built) < 4 * len(self.target.images):
                self._built[key] = message
        if self.target.unique:
            message = make_unique(message)
        request = _Request(message, done, time.monotonic() + self.target.timeout)
        with self._lock:
            connection = None if self._waiting else self._take(request)
            if connection is None:
                self._waiting.append(request)
                warn, self._warned = not self._warned, True
        if connection is not None:
            self._start(connection)
        elif warn:
            _log.warning("%d connections are in use; more requests wait for one.", self._most)

    def close(self) -> None:  # noqa: D102
        self._closed = True
        self._reader.join()
        for connection in list(self._open):
            self._drop(connection)
        self._selector.close()

    def _build(self, sample_ids: Sequence[int]) -> bytes:
        body = self.body(sample_ids)
        headers = {"Host": self._host, **self.headers(sample_ids)}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        lines = [f"POST {self.path(sample_ids)} HTTP/1.1", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + body

    def _take(self, request: _Request) -> _Connection | None:
        """Give a request an idle connection or a new one; None if all are in use."""
        if self._idle:
            connection = self._idle.pop()
        elif len(self._open) < self._most:
            connection = _Connection()
            self._open.add(connection)
        else:
            return None
        connection.request, connection.unsent = request, request.message
        return connection

    def _connect(self) -> socket.socket:
        opened = socket.create_connection(self._server, timeout=self.target.timeout)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            opened = self._tls.wrap_socket(opened, server_hostname=self._server[0])
        opened.setblocking(False)
        return opened

    def _start(self, connection: _Connection) -> None:
        """Connect if need be, and send a connection's request."""
        if connection.socket is None:
            try:
                connection.socket = self._connect()
            except OSError as error:
                self._lose(connection, str(error))
                return
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        self._write(connection)

    def _write(self, connection: _Connection, wanted: int = selectors.EVENT_READ) -> None:
        """Send as much of a request as the socket takes; the reader's thread sends the rest.

        Args:
            connection: the connection.
            wanted: the events for which the selector watches it.
        """
        assert connection.socket is not None
        with connection.lock:
            try:
                sent = connection.socket.send(connection.unsent)
            except _NOT_YET:
                sent = 0
            except OSError:  # reading brings what the server said before it closed, or the end
                sent = len(connection.unsent)
            connection.unsent = connection.unsent[sent:]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.unsent else 0)
        if events != wanted:
            with contextlib.suppress(KeyError, ValueError):  # it has just been dropped
                self._selector.modify(connection.socket, events, connection)

    def _lose(self, connection: _Connection, reason: str) -> None:
        """Drop a connection that was closed, and fail its request or send it once more."""
        request = self._drop(connection)
        if request is not None and connection.used and not connection.received:
            fresh = _Connection(request=request, unsent=request.message)
            with self._lock:
                self._open.add(fresh)
            self._start(fresh)
        elif request is not None:
            request.done(None, f"UNAVAILABLE: {reason}")
        self._send_waiting()

    def _drop(self, connection: _Connection) -> _Request | None:
        """Close a connection, and return its request, once."""
        with self._lock:
            request, connection.request = connection.request, None
            self._open.discard(connection)
            if connection in self._idle:
                self._idle.remove(connection)
        if connection.socket is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(connection.socket)
            with connection.lock:
                connection.socket.close()
        return request

    def _send_waiting(self) -> None:
        """Send the requests that wait, as long as there are connections for them.

        A request that fails at once calls back, which may lead here again: that call does nothing,
        so that a server which refuses everything does not fill the stack.
        """
        with self._lock:
            if self._sending_waiting or not self._waiting:
                return
            self._sending_waiting = True
        while True:
            with self._lock:
                connection = self._take(self._waiting[0]) if self._waiting else None
                if connection is None:
                    self._sending_waiting = False
                    return
                self._waiting.popleft()
            self._start(connection)

    def _read_all(self) -> None:
        checked = time.monotonic()
        while not self._closed:
            for key, events in self._selector.select(_CHECK_EVERY):
                if events & selectors.EVENT_WRITE:
                    self._write(key.data, selectors.EVENT_READ | selectors.EVENT_WRITE)
                if events & selectors.EVENT_READ:
                    self._read(key.data)
            if (now := time.monotonic()) - checked >= _CHECK_EVERY:
                checked = now
                self._expire(now)

    def _read(self, connection: _Connection) -> None:
        ended = self._receive(connection)
        try:
            parsed = _parse(bytes(connection.received), ended)
        except ValueError as error:
            self._lose(connection, f"no answer of HTTP/1.1: {error}")
            return
        if parsed is None:
            if ended is not None:
                self._lose(connection, ended)
            return
        head, body = parsed
        with self._lock:
            request = connection.request
            keep = ended is None and request is not None and not connection.unsent
            if keep and not _CLOSE.search(head):
                connection.request, connection.used = None, True
                connection.received.clear()
                self._idle.append(connection)
            else:
                self._drop(connection)
        if self._waiting:
            self._send_waiting()
        if request is None:  # it said something of its own accord
            return
        if head[9:12] == b"200":
            deliver(request.done, self.read, head, body)
        else:
            status, said = (part.decode("utf-8", "replace") for part in (head[9:12], body[:200]))
            request.done(None, f"HTTP {status}: {said}")

    def _receive(self, connection: _Connection) -> str | None:
        """Read what there is, and return why there will be no more; None if there may be."""
        assert connection.socket is not None
        try:
            while True:
                with connection.lock:
                    data = connection.socket.recv(_CHUNK)
                if not data:
                    return "the connection was closed"
                connection.received += data
                if self._tls is None:  # what TLS has decrypted, the selector does not see
                    return None
        except _NOT_YET:
            return None
        except OSError as error:
            return str(error)

    def _expire(self, now: float) -> None:
        with self._lock:
            late = [one for one in self._open if one.request and one.request.deadline < now]
            unsent = []
            while self._waiting and self._waiting[0].deadline < now:
                unsent.append(self._waiting.popleft())
        for connection in late:
            request = self._drop(connection)
            if request is not None:
                request.done(None, "DEADLINE_EXCEEDED: not answered in time")
        for request in unsent:
            request.done(None, "DEADLINE_EXCEEDED: not sent in time")
        self._send_waiting()


def _parse(received: bytes, ended: str | None) -> tuple[bytes, bytes] | None:
    """Return head and body of a whole answer, or None if there is more to come.

    Args:
        received: what was read so far.
        ended: not None if there is no more.

    Raises:
        ValueError: it is not an answer of HTTP/1.1.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    if not received.startswith(b"HTTP/1."):
        raise ValueError(repr(received[:40]))
    head, start = received[: end + 2], end + 4
    if match := _LENGTH.search(head):
        size = int(match[1])
        return (head, received[start : start + size]) if len(received) >= start + size else None
    if not _CHUNKED.search(head):  # it ends with the connection
        return None if ended is None else (head, received[start:])
    parts: list[bytes] = []
    while True:
        line = received.find(b"\r\n", start)
        if line < 0:
            return None
        size = int(received[start:line].split(b";")[0], 16)
        start = line + 2
        if len(received) < start + size + 2:
            return None
        if size == 0:
            return head, b"".join(parts)
        parts.append(received[start : start + size])
        start += size + 2
