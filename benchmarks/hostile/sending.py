"""Send hostile requests as they are."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any

from hostile.request import HostileRequest

_SENT_AT_ONCE = 2**16  # bytes


def send(
    address: tuple[str, int], request: HostileRequest, timeout: float = 60.0
) -> tuple[int, bytes]:
    """Send an HTTP request as it is, and return status and answer; the status may be 0."""
    with contextlib.closing(socket.create_connection(address, timeout)) as connection:
        connection.settimeout(timeout)
        with contextlib.suppress(ConnectionError):  # what was refused need not be sent
            waiting = _head(request)
            for part in request.body:
                waiting += b"%x\r\n%b\r\n" % (len(part), part) if request.chunked else part
                if request.pause or len(waiting) > _SENT_AT_ONCE:
                    connection.sendall(waiting)
                    time.sleep(request.pause)
                    waiting = b""
            connection.sendall(waiting + (b"0\r\n\r\n" if request.chunked else b""))
        return _read_answer(connection)


def send_grpc(channel: Any, request: HostileRequest, timeout: float = 60.0) -> tuple[str, str]:
    """Send a gRPC request, and return the status's name and the message."""
    import grpc

    call = channel.unary_unary(request.path)  # bytes in, bytes out
    try:
        call(b"".join(request.body), timeout=timeout, metadata=list(request.headers.items()))
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""


def _head(request: HostileRequest) -> bytes:
    headers = {"host": "localhost", "connection": "close", **request.headers}
    if request.chunked:
        headers["transfer-encoding"] = "chunked"
    elif request.method == "POST":
        headers.setdefault("content-length", str(sum(map(len, request.body))))
    lines = [f"{request.method} {request.path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def _read_answer(connection: socket.socket) -> tuple[int, bytes]:
    answer = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(2**16):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    return (int(words[1]) if len(words) > 1 and words[1].isdigit() else 0), body
