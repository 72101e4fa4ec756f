"""A sender that costs little: gRPC over a plain socket."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from delugeserve.load.senders.base import Done, deliver
from delugeserve.load.senders.http2 import Call, Http2Calls
from delugeserve.load.senders.messages import GrpcMessages, Messages
from delugeserve.load.senders.secure import METHOD
from delugeserve.load.target import Target
from delugeserve_client.address import parse_address
from delugeserve_client.credentials import Credentials

_T = TypeVar("_T")
_CHUNK = 1 << 20
_CHECK_EVERY = 0.25  # seconds; how late a missed deadline may be noticed


class _Connection:
    """A connection, the calls on it, and the thread that reads from it."""

    reader: threading.Thread

    def __init__(self, server: tuple[str, int], headers: Sequence[tuple[str, str]], timeout: float):
        """Connect.

        Raises:
            OSError: there is no server, or none that speaks HTTP/2.
        """
        self.calls = Http2Calls(headers)
        self.socket = socket.create_connection(server, timeout=timeout)
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.calls.begin()
            self.socket.sendall(self.calls.data_to_send())
            while not self.calls.ready:
                data = self.socket.recv(_CHUNK)
                if not data:
                    raise OSError("the connection was closed")
                self.calls.receive(data)
            self.socket.settimeout(None)
            # A server that reads no more must not hold the sending thread for ever.
            limit = struct.pack("ll", int(timeout), round(timeout % 1 * 1e6))
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        except BaseException:
            self.socket.close()
            raise

    def flush(self) -> None:
        """Send what the calls want sent."""
        data = self.calls.data_to_send()
        if data:
            try:
                self.socket.sendall(data)
            except OSError:
                self.shut()  # the reader notices, and fails the calls

    def shut(self) -> None:
        """End the connection; its reader notices."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


class PlainGrpcSender:
    """Sends gRPC calls over one connection without TLS.

    A call is sent by the thread that makes it; one more thread reads the answers, and sends what
    their callbacks send in one piece. A lost connection fails the calls in flight; the next call
    connects again. Calls that a server has not begun when it closes a connection go to the next.

    Args:
        target: what to send, and where.
        messages: the messages, where the server is not Triton; None asks it what it takes.

    Raises:
        ClientError: the server cannot be asked.
    """

    def __init__(self, target: Target, messages: GrpcMessages | None = None) -> None:
        address = parse_address(target.url)
        name, _, port = address.host.rpartition(":")
        self._server = (name.strip("[]"), int(port))
        credentials = target.credentials or Credentials.from_environment()
        key = credentials.api_key
        self._headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", METHOD),
            (":authority", address.host),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("grpc-timeout", f"{max(1, round(target.timeout * 1e3))}m"),
            *([("authorization", f"Bearer {key}")] if key else []),
        ]
        self._messages = messages or Messages(target)
        self._timeout = target.timeout
        self._lock = threading.RLock()
        self._current: _Connection | None = None
        self._connections: list[_Connection] = []  # with those that the server is closing
        self._collecting = False
        self._closed = threading.Event()
        self._expirer = threading.Thread(target=self._expire, daemon=True, name="load-deadlines")
        self._expirer.start()

    def send(self, sample_ids: Sequence[int], done: Done) -> None:  # noqa: D102
        message = self._messages.build(sample_ids)
        prefixed = b"\0" + len(message).to_bytes(4, "big") + message
        read = self._messages.read

        def answered(reply: bytes | None, error: str | None) -> None:
            if reply is None:
                done(None, error)
            else:
                deliver(done, read, reply)

        call = Call(prefixed, answered, time.monotonic() + self._timeout)
        with self._lock:
            try:
                connection = self._connected()
            except OSError as error:
                done(None, f"UNAVAILABLE: {error}")
                return
            connection.calls.call(call)
            if not self._collecting:
                connection.flush()

    def close(self) -> None:  # noqa: D102
        self._closed.set()
        with self._lock:
            for connection in self._connections:
                connection.shut()
            threads = [self._expirer, *(each.reader for each in self._connections)]
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join()

    def _connected(self) -> _Connection:
        """Return the open connection; without one, or with one that ends, connect."""
        if self._current is not None and self._current.calls.broken is None:
            return self._current
        self._current = connection = _Connection(self._server, self._headers, self._timeout)
        self._connections.append(connection)
        connection.reader = threading.Thread(
            target=self._read, args=(connection,), daemon=True, name="load-reader"
        )
        connection.reader.start()
        return connection

    def _read(self, connection: _Connection) -> None:
        reason = "the connection was closed"
        while True:
            try:
                data = connection.socket.recv(_CHUNK)
            except OSError as error:
                data, reason = b"", str(error)
            if not data:
                break
            try:
                self._do(connection, connection.calls.receive, data)
            except Exception as error:  # bytes that are no HTTP/2
                reason = f"{type(error).__name__}: {error}"
                break
        self._do(connection, connection.calls.lose, f"UNAVAILABLE: {reason}")
        with self._lock:
            self._connections.remove(connection)
            connection.socket.close()

    def _expire(self) -> None:
        while not self._closed.wait(_CHECK_EVERY):
            for connection in list(self._connections):
                self._do(connection, connection.calls.expire, time.monotonic())

    def _do(self, connection: _Connection, action: Callable[[_T], None], argument: _T) -> None:
        """Let a connection do something, then send at once all that it and callbacks want sent."""
        with self._lock:
            self._collecting = True
            try:
                action(argument)
                if connection.calls.broken is not None:
                    self._move(connection.calls.take_queue())
            finally:
                self._collecting = False
                for each in self._connections:
                    each.flush()

    def _move(self, calls: list[Call]) -> None:
        """Give calls that a server has not begun to the next connection."""
        for call in calls:
            try:
                if self._closed.is_set():
                    raise OSError("the sender was closed")
                if call.deadline < time.monotonic():
                    raise OSError("the server closes every connection")
                self._connected().calls.call(call)
            except OSError as error:
                call.done(None, f"UNAVAILABLE: {error}")
