"""A sender over HTTP/1.1 that costs little: messages built before, answers read as bytes."""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from delugeserve.load.senders.base import Done
from delugeserve.load.senders.messages import connect, make_unique
from delugeserve.load.target import Target
from delugeserve_client.address import parse_address
from delugeserve_client.credentials import Credentials
from delugeserve_client.served import PROBABILITIES
from delugeserve_client.triton import build_request, import_triton

_CHUNK = 1 << 18
_CHECK_EVERY = 0.25  # seconds; how late a missed deadline may be noticed
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


@dataclass(eq=False)
class _Connection:
    """A connection, and the request in flight on it.

    Attributes:
        socket: the socket; None before it is connected.
        message: the request.
        done: called with the answer; None while the connection is idle.
        deadline: when the request counts as failed, on the monotonic clock.
        received: what has been read of the answer.
        used: it has brought an answer before.
    """

    socket: socket.socket | None = None
    message: bytes = b""
    done: Done | None = None
    deadline: float = 0.0
    received: bytearray = field(default_factory=bytearray)
    used: bool = False

    def claim(self) -> Done:
        """Return what to call with the answer; nothing to call if another thread has called it."""
        done, self.done = self.done, None
        return done or _nobody


def _nobody(_answer: bytes | None, _error: str | None) -> None:
    return None


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

    def __init__(self, target: Target, most: int = 256) -> None:
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
        self._waiting: deque[tuple[bytes, Done, float]] = deque()
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
        deadline = time.monotonic() + self.target.timeout
        with self._lock:
            connection = self._take()
            if connection is None:
                self._waiting.append((message, done, deadline))
                return
        self._start(connection, message, done, deadline)

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

    def _take(self) -> _Connection | None:
        """Return an idle connection, or a place for a new one; None if all are in use."""
        if self._idle:
            return self._idle.pop()
        if len(self._open) >= self._most:
            return None
        connection = _Connection()
        self._open.add(connection)
        return connection

    def _connect(self) -> socket.socket:
        opened = socket.create_connection(self._server, timeout=self.target.timeout)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            opened = self._tls.wrap_socket(opened, server_hostname=self._server[0])
        opened.settimeout(None)
        return opened

    def _start(self, connection: _Connection, message: bytes, done: Done, deadline: float) -> None:
        connection.message, connection.done, connection.deadline = message, done, deadline
        try:
            if connection.socket is None:
                connection.socket = self._connect()
                self._selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.socket.sendall(message)
        except OSError as error:
            self._lose(connection, str(error))

    def _lose(self, connection: _Connection, reason: str) -> None:
        """Drop a connection that was closed, by whichever thread notices first."""
        self._drop(connection)
        with self._lock:
            done = connection.claim()
            again = connection.used and not connection.received and done is not _nobody
            if again:
                fresh = _Connection()
                self._open.add(fresh)
        if again:
            self._start(fresh, connection.message, done, connection.deadline)
        else:
            done(None, f"UNAVAILABLE: {reason}")

    def _drop(self, connection: _Connection) -> None:
        with self._lock:
            self._open.discard(connection)
            if connection in self._idle:
                self._idle.remove(connection)
        if connection.socket is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(connection.socket)
            connection.socket.close()

    def _read_all(self) -> None:
        checked = time.monotonic()
        while not self._closed:
            for key, _ in self._selector.select(_CHECK_EVERY):
                self._read(key.data)
            if (now := time.monotonic()) - checked >= _CHECK_EVERY:
                checked = now
                self._expire(now)

    def _read(self, connection: _Connection) -> None:
        data, reason = self._receive(connection)
        if not data:
            self._lose(connection, reason)
            self._send_waiting(None)
            return
        connection.received += data
        parsed = _parse(bytes(connection.received))
        if parsed is None:
            return
        head, body = parsed
        connection.received.clear()
        connection.used = True
        done = connection.claim()
        if _CLOSE.search(head):
            self._drop(connection)
            self._send_waiting(None)
        else:
            self._send_waiting(connection)
        self._finish(done, head, body)

    @staticmethod
    def _receive(connection: _Connection) -> tuple[bytes, str]:
        assert connection.socket is not None
        try:
            data = connection.socket.recv(_CHUNK)
            while isinstance(connection.socket, ssl.SSLSocket) and connection.socket.pending():
                data += connection.socket.recv(_CHUNK)
        except OSError as error:
            return b"", str(error)
        return data, "the connection was closed"

    def _finish(self, done: Done, head: bytes, body: bytes) -> None:
        status = head[9:12].decode("ascii", "replace")
        if status != "200":
            done(None, f"HTTP {status}: {body[:200].decode('utf-8', 'replace')}")
            return
        try:
            answer = self.read(head, body)
        except Exception as error:  # an answer of another form is a failed request
            done(None, f"INTERNAL: {type(error).__name__}: {error}")
        else:
            done(answer, None)

    def _send_waiting(self, connection: _Connection | None) -> None:
        """Give a connection to the next request that waits for one, or make it idle."""
        with self._lock:
            if not self._waiting:
                if connection is not None:
                    self._idle.append(connection)
                return
            if connection is None:
                connection = self._take()
            if connection is None:
                return
            message, done, deadline = self._waiting.popleft()
        self._start(connection, message, done, deadline)

    def _expire(self, now: float) -> None:
        for connection in list(self._open):
            if connection.done is not None and connection.deadline < now:
                self._drop(connection)
                connection.claim()(None, "DEADLINE_EXCEEDED: not answered in time")
        while self._waiting and self._waiting[0][2] < now:
            _, done, _ = self._waiting.popleft()
            done(None, "DEADLINE_EXCEEDED: not sent in time")


def _parse(received: bytes) -> tuple[bytes, bytes] | None:
    """Return head and body of a whole answer, or None if there is more to come."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head, start = received[: end + 2], end + 4
    if match := _LENGTH.search(head):
        size = int(match[1])
        return (head, received[start : start + size]) if len(received) >= start + size else None
    if not _CHUNKED.search(head):
        return head, received[start:]
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


class TritonHttpSender(HttpSender):
    """Sends pixels to Triton's HTTP endpoint, in its binary form.

    Raises:
        ClientError: the server cannot be asked.
    """

    def __init__(self, target: Target) -> None:
        self._served = connect(target)
        self._module = import_triton("http")
        super().__init__(target)

    def path(self, sample_ids: Sequence[int]) -> str:  # noqa: D102
        version = f"/versions/{self._served.version}" if self._served.version else ""
        return f"/v2/models/{self._served.name}{version}/infer"

    def _infer_body(self, sample_ids: Sequence[int]) -> tuple[bytes, int]:
        batch = self.target.images[list(sample_ids)]
        request = build_request(
            self._module, self._served, batch, {PROBABILITIES: 0}, self.target.timeout
        )
        body, json_size = self._module.InferenceServerClient.generate_request_body(
            request["inputs"], outputs=request["outputs"], timeout=request["timeout"]
        )
        return bytes(body), json_size

    def body(self, sample_ids: Sequence[int]) -> bytes:  # noqa: D102
        return self._infer_body(sample_ids)[0]

    def headers(self, sample_ids: Sequence[int]) -> dict[str, str]:  # noqa: D102
        json_size = self._infer_body(sample_ids)[1]
        return {
            **super().headers(sample_ids),
            "Inference-Header-Content-Length": str(json_size),
        }

    def read(self, head: bytes, body: bytes) -> bytes:  # noqa: D102
        match = _JSON_SIZE.search(head)
        if match is None:
            raise ValueError("the answer has no Inference-Header-Content-Length")
        return body[int(match[1]) :]


_JSON_SIZE = re.compile(rb"\r\ninference-header-content-length: *(\d+)", re.IGNORECASE)
