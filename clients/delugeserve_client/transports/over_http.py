"""HTTP: a pool of connections, each used by one thread at a time.

tritonclient's own HTTP client is bound to the thread that made it, and waits for ever in another.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import socket
import time
import urllib.parse
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from delugeserve_client.address import Address
from delugeserve_client.core.dispatch import Cancel, Done
from delugeserve_client.core.failures import Failure, Kind
from delugeserve_client.explaining import (
    BROKEN_CONNECTION,
    classify_failure,
    failure_of,
    seconds_to_wait,
)
from delugeserve_client.transports.connection import (
    LONGEST,
    CallFailed,
    Options,
    damaged,
    unexpected,
)
from delugeserve_client.transports.deadlines import read_until
from delugeserve_client.transports.messages import Buffer, Form, Reply, Request, read_reply

# Threads are made as requests need them, which the dispatcher limits. None may wait for a thread
# while its deadline runs, nor a probe for the requests to a server that hangs.
_MOST_THREADS = 10_000
_HEADER_LENGTH = "Inference-Header-Content-Length"


class _Attempt:
    """A call, which another thread may cancel."""

    def __init__(self) -> None:
        self.sock: socket.socket | None = None
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        _shut(self.sock)


class HttpConnection:
    """A connection over HTTP; see :class:`~delugeserve_client.transports.connection.Connection`.

    Args:
        address: the server's address.
        options: how it is made.

    Raises:
        AuthenticationFailed: a file of the credentials cannot be read.
    """

    def __init__(self, address: Address, options: Options) -> None:
        self.address = address
        self._headers = options.all_headers()
        self._gzip = options.compression == "gzip"
        self._tls = options.credentials.tls_context() if address.secure else None
        self._idle: deque[http.client.HTTPConnection] = deque()
        self._busy: set[http.client.HTTPConnection] = set()
        self.workers = ThreadPoolExecutor(_MOST_THREADS, "delugeserve-http")
        self._closed = False

    def infer(self, request: Request, timeout: float) -> Reply:  # noqa: D102
        return self._infer(request, timeout, _Attempt())

    def start(self, request: Request, timeout: float, done: Done) -> Cancel:  # noqa: D102
        attempt = _Attempt()
        until = time.monotonic() + timeout

        def work() -> None:
            reply, failure = None, None
            try:
                reply = self._infer(request, until - time.monotonic(), attempt)
            except CallFailed as error:
                failure = error.failure
            except Exception as error:
                failure = unexpected(error)
            done(reply, failure)

        try:
            self.workers.submit(work)
        except RuntimeError:  # the pool, or the interpreter, is shutting down
            done(None, Failure(Kind.CLOSED))
        return attempt.cancel

    def probe(  # noqa: D102
        self, model: str, version: str, timeout: float, done: Callable[[bool], None]
    ) -> None:
        def work() -> None:
            path, status = f"{_path(model, version)}/ready", 0
            with contextlib.suppress(Exception):
                status, _, _ = self._call("GET", path, (), {}, timeout, _Attempt())
            done(status == 200)

        try:
            self.workers.submit(work)
        except RuntimeError:
            done(False)

    def ask(self, what: str, *names: str, timeout: float) -> Any:  # noqa: D102
        method, path = {
            "metadata": ("GET", ""),
            "config": ("GET", "/config"),
            "index": ("POST", "/v2/repository/index"),
            "server": ("GET", "/v2"),
            "statistics": ("GET", "/stats"),
        }[what]
        if names:
            path = _path(*names) + path
        body = self._checked(*self._call(method, path, (), {}, timeout, _Attempt()))
        try:
            found = json.loads(body)
        except ValueError as error:
            raise CallFailed(
                Failure(Kind.REFUSED, "The answer is not JSON.", cause=error)
            ) from None
        return {"models": found} if what == "index" else found

    def close(self) -> None:  # noqa: D102
        self._closed = True
        self.workers.shutdown(wait=False, cancel_futures=True)
        while self._idle:
            self._idle.pop().close()
        for connection in list(self._busy):  # wakes the threads that wait there
            _shut(connection.sock)

    def _infer(self, request: Request, timeout: float, attempt: _Attempt) -> Reply:
        head = _head(request, timeout)
        parts: tuple[Buffer, ...] = (head, *request.parts)
        headers = {_HEADER_LENGTH: str(len(head)), **request.headers}
        if self._gzip:
            parts = (gzip.compress(b"".join(parts), 1),)
            headers["Content-Encoding"] = "gzip"
        path = f"{_path(request.form.model, request.form.version)}/infer"
        status, found, content = self._call("POST", path, parts, headers, timeout, attempt)
        self._checked(status, found, content)
        try:
            length = int(found.get(_HEADER_LENGTH.lower(), len(content)))
            return _read(request.form, content, length)
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(error) from None

    def _checked(self, status: int, headers: Mapping[str, str], content: bytes) -> bytes:
        if status == 200:
            return content
        text = content[:2000].decode("utf-8", "replace")
        with contextlib.suppress(ValueError, AttributeError):
            text = str(json.loads(text).get("error", text))
        wait = seconds_to_wait(headers.get("retry-after"))
        raise CallFailed(
            classify_failure(
                str(status), text or f"HTTP status {status}", self.address.host, wait=wait
            )
        )

    def _call(
        self,
        method: str,
        path: str,
        parts: Iterable[Buffer],
        headers: Mapping[str, str],
        timeout: float,
        attempt: _Attempt,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Return the status, headers and content of an answer."""
        until = time.monotonic() + min(timeout, LONGEST)
        parts = tuple(parts)
        sent = {**self._headers, **headers, "Content-Length": str(sum(map(len, parts)))}
        while True:
            if self._closed or attempt.cancelled:
                raise CallFailed(Failure(Kind.CLOSED))
            connection, fresh = self._take()
            self._busy.add(connection)
            try:
                return self._exchange(connection, method, path, parts, sent, until, attempt)
            except Exception as error:
                connection.close()
                if self._closed or attempt.cancelled:
                    raise CallFailed(Failure(Kind.CLOSED)) from None
                if not isinstance(error, (OSError, http.client.HTTPException)):
                    raise CallFailed(unexpected(error)) from error
                # The server may have closed a connection while it was idle.
                if fresh or not isinstance(error, BROKEN_CONNECTION):
                    raise CallFailed(failure_of(error, self.address.host)) from None
            except BaseException:
                connection.close()
                raise
            finally:
                self._busy.discard(connection)

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        parts: tuple[Buffer, ...],
        headers: Mapping[str, str],
        until: float,
        attempt: _Attempt,
    ) -> tuple[int, Mapping[str, str], bytes]:
        connection.timeout = _left(until)
        if connection.sock is None:
            connection.connect()
        raw: Any = connection.sock  # the response may take it over
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        attempt.sock = raw
        if attempt.cancelled:  # while it connected
            raise ConnectionAbortedError
        if parts and sum(map(len, parts)) < _JOINED:
            parts = (b"".join(parts),)
        read_until(connection, until)
        sent = True
        try:
            raw.settimeout(_left(until))
            body = _timed(parts, raw, until)
            connection.request(method, path, body=body, headers=dict(headers))
        except BROKEN_CONNECTION as error:
            sent = False  # the server may have answered before, that the request is too large
            try:
                response = connection.getresponse()
            except (OSError, http.client.HTTPException):
                raise error from None
        else:
            response = connection.getresponse()
        content = response.read()
        if response.will_close or not sent:
            connection.close()
        else:
            self._idle.append(connection)
        found = {name.lower(): value for name, value in response.getheaders()}
        return response.status, found, content

    def _take(self) -> tuple[http.client.HTTPConnection, bool]:
        """Return a connection, and whether it is new."""
        with contextlib.suppress(IndexError):
            return self._idle.pop(), False
        parts = urllib.parse.urlsplit(f"//{self.address.host}")
        host, port = parts.hostname or "", parts.port
        if self._tls is not None:
            return http.client.HTTPSConnection(host, port, context=self._tls), True
        return http.client.HTTPConnection(host, port), True


def _shut(one: socket.socket | None) -> None:
    if one is not None:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


_JOINED = 2**16  # bytes; a smaller body is sent at once


def _timed(parts: Iterable[Buffer], raw: socket.socket, until: float) -> Iterator[Buffer]:
    for part in parts:
        raw.settimeout(_left(until))
        yield part


def _left(until: float) -> float:
    return max(0.001, until - time.monotonic())


def _path(model: str, version: str = "") -> str:
    path = f"/v2/models/{urllib.parse.quote(model, safe='')}"
    return f"{path}/versions/{urllib.parse.quote(version, safe='')}" if version else path


def _head(request: Request, timeout: float) -> bytes:
    form = request.form
    parameters: dict[str, Any] = {}
    if timeout < LONGEST:
        parameters["timeout"] = max(1, int(timeout * 1e6))
    if form.on_error:
        parameters["on_error"] = form.on_error
    return json.dumps(
        {
            "inputs": [
                {
                    "name": form.input,
                    "shape": form.shape,
                    "datatype": form.dtype,
                    "parameters": {"binary_data_size": request.nbytes},
                }
            ],
            "outputs": [
                {
                    "name": name,
                    "parameters": {
                        "binary_data": True,
                        **({"classification": classes} if classes else {}),
                    },
                }
                for name, classes in form.outputs
            ],
            "parameters": parameters,
        }
    ).encode()


def _read(form: Form, content: bytes, length: int) -> Reply:
    head = json.loads(content[:length])
    place, outputs = length, []
    for one in head["outputs"]:
        size = one["parameters"]["binary_data_size"]
        values = content[place : place + size]
        outputs.append((one["name"], one["datatype"], one["shape"], values))
        place += size
    return read_reply(form, str(head.get("model_version", "")), outputs)
