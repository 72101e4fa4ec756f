"""A sender that costs little: gRPC over a plain socket."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence

from delugeserve.load.senders.base import Done
from delugeserve.load.senders.http2 import Http2Calls
from delugeserve.load.senders.messages import GrpcMessages, Messages
from delugeserve.load.senders.secure import METHOD
from delugeserve.load.target import Target
from delugeserve_client.address import parse_address
from delugeserve_client.credentials import Credentials

_CHUNK = 1 << 20
_CHECK_EVERY = 0.25  # seconds; how late a missed deadline may be noticed


class PlainGrpcSender:
    """Sends gRPC calls over one connection without TLS.

    A call is sent by the thread that makes it; one more thread reads the answers, and sends what
    their callbacks send in one piece. A lost connection fails the calls in flight; the next call
    connects again.

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
        self._calls: Http2Calls | None = None
        self._socket: socket.socket | None = None
        self._reader: threading.Thread | None = None
        self._unsent: list[bytes] = []
        self._closing = False

    def send(self, sample_ids: Sequence[int], done: Done) -> None:  # noqa: D102
        message = self._messages.build(sample_ids)
        prefixed = b"\0" + len(message).to_bytes(4, "big") + message
        read = self._messages.read

        def answered(reply: bytes | None, error: str | None) -> None:
            done(None if reply is None else read(reply), error)

        with self._lock:
            try:
                calls = self._connected()
            except OSError as error:
                answered(None, f"UNAVAILABLE: {error}")
                return
            data = calls.call(prefixed, answered, time.monotonic() + self._timeout)
            if threading.current_thread() is self._reader:
                self._unsent.append(data)  # it is sent with those of the answers read with this one
            else:
                self._write(data)

    def close(self) -> None:  # noqa: D102
        with self._lock:
            self._closing = True
            connection, reader = self._socket, self._reader
        if connection is not None:
            self._shut(connection)
        if reader is not None and reader is not threading.current_thread():
            reader.join()

    def _connected(self) -> Http2Calls:
        """Return the open connection; without one, or with one that ends, connect."""
        if self._calls is not None and self._calls.broken is None:
            return self._calls
        connection = socket.create_connection(self._server, timeout=self._timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        calls = Http2Calls(self._headers)
        connection.sendall(calls.begin())
        while not calls.ready:
            data = connection.recv(_CHUNK)
            if not data:
                raise OSError("the connection was closed")
            connection.sendall(calls.receive(data))
        connection.settimeout(None)
        self._calls, self._socket, self._unsent = calls, connection, []
        self._reader = threading.Thread(
            target=self._read, args=(connection, calls), daemon=True, name="load-reader"
        )
        self._reader.start()
        return calls

    def _write(self, data: bytes) -> None:
        if data and self._socket is not None:
            try:
                self._socket.sendall(data)
            except OSError:
                self._shut(self._socket)  # the reader notices, and fails the calls

    def _read(self, connection: socket.socket, calls: Http2Calls) -> None:
        threading.Thread(target=self._expire, args=(calls,), daemon=True).start()
        reason = "the connection was closed"
        while True:
            try:
                data = connection.recv(_CHUNK)
            except OSError as error:
                data, reason = b"", str(error)
            with self._lock:
                if not data:
                    calls.lose(f"UNAVAILABLE: {reason}")
                    break
                answer = calls.receive(data)
                self._write(answer + b"".join(self._unsent))
                self._unsent.clear()
        connection.close()

    def _expire(self, calls: Http2Calls) -> None:
        while not self._closing and calls.broken is None:
            time.sleep(_CHECK_EVERY)
            with self._lock:
                if calls is self._calls:
                    self._write(calls.expire(time.monotonic()))

    @staticmethod
    def _shut(connection: socket.socket) -> None:
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
