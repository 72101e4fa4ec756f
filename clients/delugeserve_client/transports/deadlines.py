"""HTTP answers that are read until a deadline.

A socket's own timeout starts anew with each byte, so that a server which sends one now and then
would be read for ever.
"""

from __future__ import annotations

import functools
import http.client
import io
import socket
import time
from typing import Any


class _Reads(io.RawIOBase):
    def __init__(self, raw: Any, sock: socket.socket, until: float) -> None:
        self._raw, self._sock, self._until = raw, sock, until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left)
        number: int | None = self._raw.readinto(buffer)
        return number

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, until: float, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        raw: Any = self.fp
        self.fp = io.BufferedReader(_Reads(raw.detach(), sock, until))


def read_until(connection: http.client.HTTPConnection, until: float) -> None:
    """Let the next answers on a connection end at a deadline with ``TimeoutError``.

    Args:
        connection: the connection.
        until: the deadline, on the clock of :func:`time.monotonic`.
    """
    response: Any = functools.partial(_Response, until=until)
    connection.response_class = response
