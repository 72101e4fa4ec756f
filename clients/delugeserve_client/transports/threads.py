"""The reactor for threads, and a session of it with one or more servers."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from delugeserve_client.address import Address
from delugeserve_client.core.dispatch import Cancel, Dispatcher, Done, Settings
from delugeserve_client.core.failures import Failure, Kind
from delugeserve_client.core.observing import Observer
from delugeserve_client.explaining import to_error
from delugeserve_client.transports.connection import (
    CallFailed,
    Connection,
    Options,
    unexpected,
)
from delugeserve_client.transports.messages import Reply, Request
from delugeserve_client.transports.over_grpc import GrpcConnection
from delugeserve_client.transports.over_http import HttpConnection

_log = logging.getLogger("delugeserve_client")


def open_connection(address: Address, options: Options) -> Connection:
    """Return a connection to a server. Nothing is sent yet.

    Raises:
        MissingPackageError: tritonclient or one of its own dependencies is not installed.
        AuthenticationFailed: a file of the credentials cannot be read.
    """
    return (GrpcConnection if address.protocol == "grpc" else HttpConnection)(address, options)


class Timers:
    """Calls functions later, in a thread that starts with the first of them."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._heap: list[tuple[float, int, list[Callable[[], None] | None]]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def call_later(self, seconds: float, function: Callable[[], None]) -> Cancel:
        """Call a function after some time; return a function that prevents it."""
        entry: list[Callable[[], None] | None] = [function]
        with self._condition:
            when = time.monotonic() + seconds
            heapq.heappush(self._heap, (when, next(self._order), entry))
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(
                    target=self._run, name="delugeserve-timers", daemon=True
                )
                self._thread.start()
            if self._heap[0][2] is entry:
                self._condition.notify()

        def cancel() -> None:
            entry[0] = None

        return cancel

    def close(self) -> None:
        """Forget all functions, and end the thread."""
        with self._condition:
            self._closed = True
            self._heap.clear()
            self._condition.notify()

    def _run(self) -> None:
        while True:
            with self._condition:
                if self._closed:
                    return
                left = self._heap[0][0] - time.monotonic() if self._heap else None
                if left is None or left > 0:
                    self._condition.wait(left)
                    continue
                _, _, entry = heapq.heappop(self._heap)
            function = entry[0]
            if function is not None:
                try:
                    function()
                except Exception:  # later ones must be called all the same
                    _log.exception("a function that was called later failed")


class _Inline(threading.local):
    """What the thread that hands in a request may send itself."""

    offered = False
    send: Callable[[], None] | None = None


class ThreadReactor:
    """Sends over connections and keeps time; see :class:`~delugeserve_client.core.dispatch`.

    A thread that waits for its request may send it itself, which spares two changes of thread.

    Args:
        connections: one for each server.
        model: returns name and version of the model whose readiness tells that a server is alive.
    """

    def __init__(
        self, connections: Sequence[Connection], model: Callable[[], tuple[str, str]]
    ) -> None:
        self._connections, self._model = connections, model
        self.timers = Timers()
        self.call_later = self.timers.call_later
        self.inline = _Inline()

    def now(self) -> float:  # noqa: D102
        return time.monotonic()

    def send(self, endpoint: int, request: Any, timeout: float, done: Done) -> Cancel:  # noqa: D102
        connection = self._connections[endpoint]
        if not self.inline.offered:
            try:
                return connection.start(request, timeout, done)
            except Exception as error:  # a request that is not sent ends all the same
                done(None, unexpected(error))
                return lambda: None
        self.inline.offered = False

        def send() -> None:
            try:
                reply = connection.infer(request, timeout)
            except CallFailed as error:
                done(None, error.failure)
            except Exception as error:
                done(None, unexpected(error))
            except BaseException:  # Ctrl-C, while it waits
                done(None, Failure(Kind.CLOSED))
                raise
            else:
                done(reply, None)

        self.inline.send = send
        return lambda: None

    def probe(self, endpoint: int, timeout: float, done: Callable[[bool], None]) -> None:  # noqa: D102
        self._connections[endpoint].probe(*self._model(), timeout, done)


class _Pending(Future[Reply]):
    """The reply to come, and a function that cancels the request."""

    forget: Cancel = staticmethod(lambda: None)


class ThreadSession:
    """Sends requests to one or more servers, from any thread.

    Args:
        addresses: the servers.
        options: how connections are made.
        settings: how requests are sent.
        observers: are told what happens.

    Attributes:
        model: name and version of the model that is asked.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        options: Options,
        settings: Settings,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.model = ("", "")
        self.addresses, self.settings = addresses, settings
        self.connections = [open_connection(address, options) for address in addresses]
        self._reactor = ThreadReactor(self.connections, lambda: self.model)
        self._dispatcher = Dispatcher(
            self._reactor, len(addresses), settings, threading.RLock(), observers=observers
        )
        # A hung server cannot be left, and no hedge be sent, while a thread waits in a call.
        self._alone = len(addresses) == 1 and settings.hedge is None

    @property
    def room(self) -> int:
        """How many requests are worth handing in at once."""
        return self._dispatcher.room

    def submit(self, request: Request) -> Future[Reply]:
        """Send a request; the future has the reply or a ClientError."""
        return self._submit(request)

    def run(self, request: Request) -> Reply:
        """Send a request and wait for the reply.

        Raises:
            ClientError: there is none.
        """
        inline = self._reactor.inline
        inline.offered, inline.send = self._alone, None
        try:
            future = self._submit(request)
            send = inline.send
        finally:
            inline.offered, inline.send = False, None
        if send is not None:
            send()
        try:
            return future.result()
        except BaseException:
            self.forget(future)
            raise

    def forget(self, future: Future[Reply]) -> None:
        """Cancel a request whose reply is not wanted any more."""
        if isinstance(future, _Pending):
            future.forget()

    def close(self) -> None:
        """End all requests with an error, and close the connections."""
        self._dispatcher.close()
        self._reactor.timers.close()
        for connection in self.connections:
            connection.close()

    def _submit(self, request: Request) -> Future[Reply]:
        future = _Pending()

        def done(reply: Any, failure: Failure | None, endpoint: int) -> None:
            if failure is None:
                future.set_result(reply)
            else:
                timeout = self.settings.timeout
                future.set_exception(
                    to_error(failure, self.addresses[endpoint], timeout, request.form.model)
                )

        future.forget = self._dispatcher.submit(request, done)
        return future
