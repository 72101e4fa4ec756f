"""The classifier for asyncio."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
import numpy.typing as npt

from delugeserve_client.address import Protocol
from delugeserve_client.batching import (
    Chunk,
    OnError,
    check_arguments,
    check_batch,
    checked,
    chunks,
    slices,
)
from delugeserve_client.configuration import Decode, configure
from delugeserve_client.connecting import Decoder, connect_async, find_decoder_async
from delugeserve_client.core.decoding import DecodingChoice
from delugeserve_client.core.observing import Observer
from delugeserve_client.core.retry import DEFAULT_RETRY, RetryPolicy
from delugeserve_client.credentials import Credentials
from delugeserve_client.errors import ClientError
from delugeserve_client.explaining import closed, forked
from delugeserve_client.images.inputs import AnyImage, each, is_one_image
from delugeserve_client.images.reading import Reader, Ready
from delugeserve_client.images.waiting import AT_HAND, Feed, call_here, call_in, read_few
from delugeserve_client.preprocessing import Pixels
from delugeserve_client.results import Classification
from delugeserve_client.served import PROBABILITIES, ServedModel, images_in_request, takes_no_images
from delugeserve_client.streaming import AskServer, Part, Step, Window, never, parts
from delugeserve_client.tracing import observe
from delugeserve_client.transports.connection import Compression, SharedMemory
from delugeserve_client.transports.loops import LoopSession
from delugeserve_client.transports.messages import Reply, Request, pixel_request

if TYPE_CHECKING:
    from typing_extensions import Self


class AsyncClassifier:
    """Classifies images like :class:`~delugeserve_client.Classifier`, without blocking.

    The connection is made at the first use, or on entering ``async with``. Images are read in
    threads, so the event loop stays free. In each event loop that uses it, a classifier makes
    connections of its own.

    It takes the arguments of :class:`~delugeserve_client.Classifier`.

    Raises:
        AddressError: the URL is not of a known form.
        ArgumentError: another argument is out of range.
    """

    def __init__(
        self,
        url: str | Sequence[str] = "localhost:8001",
        model: str | None = None,
        *,
        protocol: Protocol | None = None,
        model_version: str = "",
        timeout: float = 30.0,
        credentials: Credentials | None = None,
        decode: Decode = "auto",
        retry: RetryPolicy = DEFAULT_RETRY,
        hedge: float | None = None,
        in_flight: int | None = None,
        shared_memory: SharedMemory = "auto",
        max_pixels: int | None = None,
        headers: Mapping[str, str] | None = None,
        compression: Compression | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._configuration = configure(
            url,
            protocol=protocol,
            timeout=timeout,
            credentials=credentials,
            decode=decode,
            retry=retry,
            hedge=hedge,
            in_flight=in_flight,
            shared_memory=shared_memory,
            max_pixels=max_pixels,
            headers=headers,
            compression=compression,
        )
        self._name, self._version = model, model_version
        self._pid = os.getpid()
        self._observer = observe(self._configuration.addresses, observer)
        self._closed = False
        self._sessions: dict[asyncio.AbstractEventLoop, LoopSession] = {}
        self._connecting: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}
        self._model: ServedModel | None = None
        self._reader: Reader | None = None
        self._choice, self._decoder = DecodingChoice(), Decoder()

    async def connect(self) -> ServedModel:
        """Read the model's description from the server; later calls return the same.

        Raises:
            ServerUnavailable: no server answers at the URL, or it speaks the other protocol.
            ModelUnavailable: see :class:`~delugeserve_client.Classifier`.
        """
        session = self._session()
        if self._model is None:
            # One task for all who wait: each may be cancelled without the others.
            loop = asyncio.get_running_loop()
            task = self._connecting.get(loop)
            if task is None:
                task = self._connecting[loop] = loop.create_task(self._connect(session))
                task.add_done_callback(lambda done: self._connected(loop, done))
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                if self._closed and task.cancelled():
                    raise closed() from None
                raise
        assert self._model is not None
        session.model = (self._model.name, self._model.version)
        return self._model

    async def _connect(self, session: LoopSession) -> None:
        configuration = self._configuration
        model = await connect_async(session.connections, configuration, self._name, self._version)
        if configuration.decode == "server":
            await self._find_decoder(session, model)
            if self._decoder.model is None:
                raise takes_no_images(model.name)
        if self._model is None:  # otherwise another event loop was faster
            self._reader = Reader(model.preprocessing, configuration.max_pixels)
            self._model = model

    def _connected(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
        self._connecting.pop(loop, None)
        if not task.cancelled():
            task.exception()  # those who wait have it; there may be none

    @overload
    async def classify(  # type: ignore[overload-overlap]
        self, images: AnyImage, top_k: int = 5, *, on_error: OnError = "raise"
    ) -> Classification: ...

    @overload
    async def classify(
        self,
        images: Iterable[AnyImage] | AsyncIterable[AnyImage],
        top_k: int = 5,
        *,
        on_error: OnError = "raise",
    ) -> list[Classification]: ...

    async def classify(
        self,
        images: AnyImage | Iterable[AnyImage] | AsyncIterable[AnyImage],
        top_k: int = 5,
        *,
        on_error: OnError = "raise",
    ) -> Classification | list[Classification]:
        """Classify images, or one image; see :meth:`delugeserve_client.Classifier.classify`."""
        if is_one_image(images):
            (one,) = await self.classify([cast("AnyImage", images)], top_k, on_error=on_error)
            return one
        several = cast("Iterable[AnyImage]", images)
        return [result async for result in self.stream(several, top_k, on_error=on_error)]

    async def stream(
        self,
        images: Iterable[AnyImage] | AsyncIterable[AnyImage],
        top_k: int = 5,
        *,
        on_error: OnError = "raise",
        full_requests: bool = False,
    ) -> AsyncIterator[Classification]:
        """Classify images, and yield the results one by one, in order.

        Images may come from an asynchronous iterable as well. An ordinary one is read in a thread.
        The arguments are those of :meth:`.Classifier.stream`.
        """
        top_k = check_arguments(images, top_k, on_error)
        model = await self.connect()
        top_k = min(top_k, model.num_classes)
        feed = Feed(images, model.images_per_request) if isinstance(images, AsyncIterable) else None
        source: Iterable[AnyImage] = iter(feed) if feed else each(cast("Any", images))
        thread = ThreadPoolExecutor(1, "delugeserve-stream")  # starts when it is needed
        try:
            async for result in self._stream(source, thread, top_k, on_error, full=full_requests):
                yield result
        finally:
            if feed is not None:
                feed.close()
            thread.shutdown(wait=False, cancel_futures=True)

    async def infer(self, batch: Pixels, output: str = PROBABILITIES) -> npt.NDArray[np.float32]:
        """Run the model on prepared images; see :meth:`delugeserve_client.Classifier.infer`."""
        model = await self.connect()
        session = self._session()
        check_batch(batch, model, output)
        parts: list[Any] = [np.empty((0, model.outputs[output]), np.float32)]
        pending: deque[asyncio.Future[Reply]] = deque()
        try:
            for part in slices(batch, model):
                pending.append(session.submit(self._request(model, part, output)))
                if len(pending) >= session.room:
                    parts.append((await pending[0]).outputs[output])
                    pending.popleft()
            while pending:
                parts.append((await pending[0]).outputs[output])
                pending.popleft()
        finally:
            for future in pending:
                future.cancel()
        return np.concatenate(parts)

    async def close(self) -> None:
        """Close the connections. Requests in flight end with ClassifierClosed."""
        self._closed = True
        if self._pid != os.getpid():
            return
        if self._reader is not None:
            self._reader.close()
        here = asyncio.get_running_loop()
        self._drop_closed_loops()
        for loop, task in list(self._connecting.items()):
            loop.call_soon_threadsafe(task.cancel)
        for loop, session in list(self._sessions.items()):
            if loop is here:
                await session.close()
            else:
                asyncio.run_coroutine_threadsafe(session.close(), loop)

    async def __aenter__(self) -> Self:
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _session(self) -> LoopSession:
        """Return the session of the running event loop.

        Raises:
            ClassifierClosed: the classifier is closed.
            ForkedClassifier: it was made in another process, over gRPC.
        """
        if self._closed:
            raise closed()
        configuration = self._configuration
        if self._pid != os.getpid():
            if any(one.protocol == "grpc" for one in configuration.addresses):
                raise forked(self._pid)
            self._pid = os.getpid()
            self._sessions.clear()
            self._connecting.clear()
            self._model = None
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None:
            self._drop_closed_loops()
            session = self._sessions[loop] = LoopSession(
                configuration.addresses,
                configuration.options,
                configuration.settings,
                self._observer,
            )
            if self._model is not None:
                session.model = (self._model.name, self._model.version)
        return session

    @staticmethod
    def _request(model: ServedModel, part: Pixels, output: str) -> Request:
        return pixel_request(model.name, model.version, model.input_name, part, {output: 0})

    def _drop_closed_loops(self) -> None:
        """Close what belongs to event loops that are closed."""
        for loop in list(self._sessions):  # other threads' loops may come and go
            if loop.is_closed() and (session := self._sessions.pop(loop, None)):
                self._connecting.pop(loop, None)
                session.abandon()

    async def _find_decoder(self, session: LoopSession, model: ServedModel) -> None:
        configuration = self._configuration
        self._decoder.found(await find_decoder_async(session.connections, configuration, model))

    async def _takes_encoded(self) -> bool:
        if self._decoder.is_unknown:
            try:
                await self._find_decoder(self._session(), await self.connect())
            except ClientError:
                self._decoder.failed()
        return self._decoder.model is not None

    async def _stream(
        self,
        images: Iterable[AnyImage],
        thread: ThreadPoolExecutor,
        top_k: int,
        on_error: OnError,
        *,
        full: bool,
    ) -> AsyncIterator[Classification]:
        decode, model = self._configuration.decode, await self.connect()
        steps = parts(images, model.images_per_request, decode, self._choice, full=full)
        call = call_here if isinstance(images, AT_HAND) else call_in
        step: Step = await call(thread, next, steps)
        while True:
            outcome: bool | float = 0.0
            if isinstance(step, AskServer):
                outcome = await self._takes_encoded()
            elif step.is_trial:
                start = time.perf_counter()
                results, failure = await _collect(self._run(step, thread, top_k, on_error))
                outcome = time.perf_counter() - start
                for result in results:
                    yield result
                if failure is not None:
                    raise failure
            else:
                async for result in self._run(step, thread, top_k, on_error):
                    yield result
                return
            step = await call(thread, steps.send, outcome)

    async def _run(
        self, part: Part, thread: ThreadPoolExecutor, top_k: int, on_error: OnError
    ) -> AsyncIterator[Classification]:
        session, model, reader = self._session(), await self.connect(), self._reader
        assert reader is not None
        decoder, encoded = self._decoder.model, part.place == "server"
        size = images_in_request(model, decoder if encoded else None)
        call: Callable[..., asyncio.Future[Any]]
        ready: Iterable[Ready]
        if isinstance(part.images, AT_HAND) and len(part.images) <= size:
            call, ready = call_here, await read_few(reader, part.images, part.first, encoded)
        else:
            call, ready = call_in, reader.stream(part.images, size, encoded, part.first)
        window: Window[asyncio.Future[Reply]] = Window()
        found = chunks(ready, size, on_error, never if part.full else window.is_idle)
        reading: asyncio.Future[Chunk | None] | None = None
        failure: BaseException | None = None
        more = True
        try:
            while more or window:
                window.check_process()
                if more and reading is None and window.has_room(session.room):
                    reading = call(thread, next, found, None)
                if reading is not None and reading.done():
                    try:
                        chunk = reading.result()
                    except Exception as error:  # of an image, or of the caller's iterable
                        failure, chunk = error, None
                    reading = None
                    if chunk is None:
                        more = False
                    else:
                        request = chunk.request(model, decoder, top_k)
                        answer = None if request is None else session.submit(request)
                        window.add(chunk, request, answer)
                        del request  # its pixels go once it is answered
                elif window.is_answered:
                    answer = window.answer
                    reply = None if answer is None else answer.result()
                    for result in checked(window.pop().results(reply, reader), on_error):
                        yield result
                else:
                    both: tuple[asyncio.Future[Any] | None, ...] = (reading, window.answer)
                    await asyncio.wait(filter(None, both), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if reading is not None:
                reading.cancel()
            window.cancel(lambda answer: answer.cancel())
        if failure is not None:
            raise failure


async def _collect(
    results: AsyncIterator[Classification],
) -> tuple[list[Classification], Exception | None]:
    """Return all results before an error, and the error."""
    found = []
    try:
        async for result in results:
            found.append(result)
    except Exception as error:
        return found, error
    return found, None
