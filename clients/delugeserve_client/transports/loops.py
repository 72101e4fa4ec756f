"""The reactor for asyncio, and a session of it with one or more servers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from delugeserve_client.address import Address
from delugeserve_client.core.dispatch import Cancel, Dispatcher, Done, Settings
from delugeserve_client.core.failures import Failure, Kind
from delugeserve_client.core.observing import Observer
from delugeserve_client.explaining import failure_of, to_error
from delugeserve_client.transports.connection import CallFailed, Options, unexpected
from delugeserve_client.transports.messages import Reply, Request
from delugeserve_client.transports.over_grpc import (
    SECONDS_TO_FORGET,
    SECONDS_TO_REGISTER,
    Calls,
    as_json,
    decode,
    encode,
    is_about_regions,
    is_accepted,
    open_channel,
    seconds,
)
from delugeserve_client.transports.over_http import HttpConnection
from delugeserve_client.transports.shared_memory import Region, Regions
from delugeserve_client.triton import import_triton


class AioGrpcConnection:
    """A connection over gRPC for one event loop.

    Args:
        address: the server's address.
        options: how it is made.

    Raises:
        MissingPackageError: tritonclient or one of its own dependencies is not installed.
        AuthenticationFailed: a file of the credentials cannot be read.
    """

    def __init__(self, address: Address, options: Options) -> None:
        self.address = address
        import_triton("grpc")
        self._aio = importlib.import_module("grpc.aio")
        self._channel = open_channel(self._aio, address, options)
        self._calls = Calls(self._channel, options)
        self._tasks: set[asyncio.Task[None]] = set()
        self._regions = Regions(options.shared_memory, address, self._register)
        self._closed = False

    def start(self, request: Request, timeout: float, done: Done) -> Cancel:
        """Send a request; ``done`` receives the outcome."""

        async def send() -> None:
            reply, failure = None, None
            try:
                reply = await self._infer(request, timeout)
            except CallFailed as error:
                failure = error.failure
            except asyncio.CancelledError:
                failure = Failure(Kind.CLOSED)
            except Exception as error:
                failure = unexpected(error)
            done(reply, failure)

        return self._spawn(send())

    def probe(self, model: str, version: str, timeout: float, done: Callable[[bool], None]) -> None:
        """Ask whether a model is ready; ``done`` receives the answer."""

        async def ask() -> None:
            calls, ready = self._calls, False
            try:
                with contextlib.suppress(Exception):
                    message = calls.ready_request(model, version)
                    answer = await calls.ready(message, timeout=timeout, metadata=calls.metadata)
                    ready = bool(answer.ready)
            finally:
                done(ready)

        self._spawn(ask())

    async def ask(self, what: str, *names: str, timeout: float) -> Any:
        """Return one of the server's descriptions as JSON.

        Raises:
            CallFailed: there is no answer.
        """
        method, message = self._calls.question(what, names)
        try:
            return as_json(
                await method(message, timeout=seconds(timeout), metadata=self._calls.metadata)
            )
        except asyncio.CancelledError:
            if not self._closed:  # the caller's task is cancelled
                raise
            raise CallFailed(Failure(Kind.CLOSED)) from None
        except Exception as error:
            raise CallFailed(self._failure(error)) from None

    async def close(self) -> None:
        """Close the connection."""
        self._closed = True
        with contextlib.suppress(self._aio.AioRpcError):  # the first ends it: it may hang
            for region in self._regions.close():
                method, message = self._calls.registration(region, end=True)
                await method(message, timeout=SECONDS_TO_FORGET, metadata=self._calls.metadata)
        await self._channel.close()

    def abandon(self) -> None:
        """Free what is held here, when the event loop is closed."""
        self._regions.close()
        self._channel = None  # closes it

    async def _infer(self, request: Request, timeout: float) -> Reply:
        region = self._regions.place(request)
        if region is None:
            return await self._send(request, timeout, None)
        until = time.monotonic() + timeout
        try:
            reply = await self._send(request, timeout, region)
        except CallFailed as error:
            if not is_about_regions(error.failure):
                self._regions.discard(region)
                raise
            self._regions.lost(region, error.failure.message)
            return await self._send(request, until - time.monotonic(), None)
        except BaseException:  # cancelled
            self._regions.discard(region)
            raise
        self._regions.give_back(region)
        return reply

    def _register(self, region: Region, done: Callable[[bool | None], None]) -> None:
        method, message = self._calls.registration(region)

        async def register() -> None:
            accepted: bool | None = None
            try:
                await method(message, timeout=SECONDS_TO_REGISTER, metadata=self._calls.metadata)
                accepted = True
            except self._aio.AioRpcError as error:
                accepted = is_accepted(error.code())
            except self._aio.UsageError:  # the channel is closed
                pass
            finally:  # also where the loop ends
                done(accepted)

        self._spawn(register())

    async def _send(self, request: Request, timeout: float, region: Region | None) -> Reply:
        calls = self._calls
        try:
            response = await calls.infer(
                encode(request, timeout, region),
                timeout=seconds(timeout),
                metadata=calls.metadata_of(request),
                compression=calls.compression,
            )
        except Exception as error:
            raise CallFailed(self._failure(error)) from None
        return decode(request.form, response)

    def _failure(self, error: BaseException) -> Failure:
        if self._closed or isinstance(error, self._aio.UsageError):  # the channel is closed
            return Failure(Kind.CLOSED)
        if isinstance(error, self._aio.AioRpcError):
            return failure_of(error, self.address.host)
        return unexpected(error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> Cancel:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop keeps weak references only
        task.add_done_callback(self._tasks.discard)
        return task.cancel


class AioHttpConnection:
    """A connection over HTTP for one event loop, whose work is done in threads.

    Args:
        address: the server's address.
        options: how it is made.
    """

    def __init__(self, address: Address, options: Options) -> None:
        self.address = address
        self._loop = asyncio.get_running_loop()
        self._http = HttpConnection(address, options)

    def start(self, request: Request, timeout: float, done: Done) -> Cancel:
        """Send a request; ``done`` receives the outcome."""
        return self._http.start(request, timeout, self._here(done))

    def probe(self, model: str, version: str, timeout: float, done: Callable[[bool], None]) -> None:
        """Ask whether a model is ready; ``done`` receives the answer."""
        self._http.probe(model, version, timeout, self._here(done))

    async def ask(self, what: str, *names: str, timeout: float) -> Any:
        """Return one of the server's descriptions as JSON.

        Raises:
            CallFailed: there is no answer.
        """
        question = functools.partial(self._http.ask, what, *names, timeout=timeout)
        try:
            return await self._loop.run_in_executor(self._http.workers, question)
        except RuntimeError:  # the pool is closed
            raise CallFailed(Failure(Kind.CLOSED)) from None

    async def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def abandon(self) -> None:
        """Close the connection, when the event loop is closed."""
        self._http.close()

    def _here(self, done: Callable[..., None]) -> Callable[..., None]:
        """Return a function that calls another one in the event loop."""

        def call(*arguments: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(done, *arguments)

        return call


class LoopReactor:
    """Sends over connections and keeps time, in one event loop.

    Args:
        connections: one for each server.
        model: returns name and version of the model whose readiness tells that a server is alive.
    """

    def __init__(
        self,
        connections: Sequence[AioGrpcConnection | AioHttpConnection],
        model: Callable[[], tuple[str, str]],
    ) -> None:
        self._connections, self._model = connections, model
        self._loop = asyncio.get_running_loop()

    def now(self) -> float:  # noqa: D102
        return self._loop.time()

    def send(self, endpoint: int, request: Any, timeout: float, done: Done) -> Cancel:  # noqa: D102
        try:
            return self._connections[endpoint].start(request, timeout, done)
        except Exception as error:  # a request that is not sent ends all the same
            done(None, unexpected(error))
            return lambda: None

    def probe(self, endpoint: int, timeout: float, done: Callable[[bool], None]) -> None:  # noqa: D102
        self._connections[endpoint].probe(*self._model(), timeout, done)

    def call_later(self, seconds: float, function: Callable[[], None]) -> Cancel:  # noqa: D102
        return self._loop.call_later(seconds, function).cancel


class LoopSession:
    """Sends requests to one or more servers, in the running event loop.

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
        self._loop = asyncio.get_running_loop()
        self.connections = [
            (AioGrpcConnection if address.protocol == "grpc" else AioHttpConnection)(
                address, options
            )
            for address in addresses
        ]
        self._dispatcher = Dispatcher(
            LoopReactor(self.connections, lambda: self.model),
            len(addresses),
            settings,
            observers=observers,
        )

    @property
    def room(self) -> int:
        """How many requests are worth handing in at once."""
        return self._dispatcher.room

    def submit(self, request: Request) -> asyncio.Future[Reply]:
        """Send a request; the future has the reply or a ClientError. Cancelling it ends it."""
        future: asyncio.Future[Reply] = self._loop.create_future()

        def done(reply: Any, failure: Failure | None, endpoint: int) -> None:
            if future.done():
                return
            if failure is None:
                future.set_result(reply)
            else:
                timeout = self.settings.timeout
                future.set_exception(
                    to_error(failure, self.addresses[endpoint], timeout, request.form.model)
                )

        cancel = self._dispatcher.submit(request, done)
        future.add_done_callback(lambda ended: cancel() if ended.cancelled() else None)
        return future

    async def close(self) -> None:
        """End all requests with an error, and close the connections."""
        self._dispatcher.close()
        for connection in self.connections:
            await connection.close()

    def abandon(self) -> None:
        """Free what is held here, when the event loop is closed."""
        for connection in self.connections:
            connection.abandon()
