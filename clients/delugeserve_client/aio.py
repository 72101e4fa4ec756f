"""The classifier for asyncio."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
import weakref
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Iterable,
    Mapping,
    Sequence,
    Sized,
)
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
    take,
)
from delugeserve_client.configuration import Decode, configure
from delugeserve_client.connecting import answer_async, connect_async
from delugeserve_client.core.decoding import DecodingChoice, Place
from delugeserve_client.core.observing import Observer
from delugeserve_client.core.retry import DEFAULT_RETRY, RetryPolicy
from delugeserve_client.credentials import Credentials
from delugeserve_client.discovery import connection_error, find_image_model
from delugeserve_client.errors import ClientError
from delugeserve_client.explaining import closed, forked
from delugeserve_client.images.inputs import AnyImage, each, is_encoded, is_one_image
from delugeserve_client.images.reading import Reader
from delugeserve_client.preprocessing import Pixels
from delugeserve_client.results import Classification
from delugeserve_client.served import PROBABILITIES, ImageModel, ServedModel, takes_no_images
from delugeserve_client.tracing import observe
from delugeserve_client.transports.connection import CallFailed, Compression, SharedMemory
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
        self._sessions: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopSession] = (
            weakref.WeakKeyDictionary()
        )
        self._model: ServedModel | None = None
        self._reader: Reader | None = None
        self._choice = DecodingChoice()
        self._decoder: ImageModel | None = None
        self._decoder_known = decode == "client"

    async def connect(self) -> ServedModel:
        """Read the model's description from the server; later calls return the same.

        Raises:
            ServerUnavailable: no server answers at the URL, or it speaks the other protocol.
            ModelUnavailable: see :class:`~delugeserve_client.Classifier`.
        """
        session = self._session()
        if self._model is None:
            model = await connect_async(
                session.connections, self._configuration, self._name, self._version
            )
            if self._configuration.decode == "server":
                self._decoder = await self._find_decoder(session, model)
                if self._decoder is None:
                    raise takes_no_images(model.name)
                self._decoder_known = True
            self._reader = Reader(model.preprocessing, self._configuration.max_pixels)
            self._model = model
        session.model = (self._model.name, self._model.version)
        return self._model

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
    ) -> AsyncIterator[Classification]:
        """Classify images, and yield the results one by one, in order.

        Images may come from an asynchronous iterable as well. An ordinary one is read in a thread.
        """
        check_arguments(images, top_k, on_error)
        model = await self.connect()
        top_k = min(top_k, model.num_classes)
        if isinstance(images, AsyncIterable):
            async for result in self._stream_blocks(images, model, top_k, on_error):
                yield result
            return
        rest: Iterable[AnyImage] = each(images)
        size, first = model.images_per_request, 1
        place: Place = "server" if self._configuration.decode == "server" else "client"
        if self._configuration.decode == "auto" and not (
            isinstance(rest, Sized) and len(rest) < size
        ):
            rest = source = iter(rest)
            while (trial := self._choice.next_trial) is not None:
                block, source = await asyncio.to_thread(take, source, size)
                rest = itertools.chain(block, source)
                encoded = len(block) == size and all(map(is_encoded, block))
                if not encoded or not await self._try_decoder(model):
                    break
                start = time.perf_counter()
                results, failure = await _collect(self._run(block, first, top_k, on_error, trial))
                self._choice.measured(trial, size, time.perf_counter() - start)
                for result in results:
                    yield result
                if failure is not None:
                    raise failure
                first, rest = first + size, source
        if self._configuration.decode == "auto" and self._decoder is not None:
            place = self._choice.place
        async for result in self._run(rest, first, top_k, on_error, place):
            yield result

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
        for loop, session in list(self._sessions.items()):
            if loop is here:
                await session.close()
            elif not loop.is_closed():
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
            self._model = None
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None:
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

    async def _find_decoder(self, session: LoopSession, model: ServedModel) -> ImageModel | None:
        connection = session.connections[0]
        timeout = self._configuration.settings.timeout
        try:
            return await answer_async(
                find_image_model(model),
                lambda question: connection.ask(*question, timeout=timeout),
            )
        except CallFailed as error:
            raise connection_error(error, connection.address, self._configuration) from None

    async def _try_decoder(self, model: ServedModel) -> bool:
        if not self._decoder_known:
            try:
                self._decoder = await self._find_decoder(self._session(), model)
            except ClientError:
                return False
            self._decoder_known = True
        return self._decoder is not None

    async def _run(
        self,
        images: Iterable[AnyImage],
        first: int,
        top_k: int,
        on_error: OnError,
        place: Place,
    ) -> AsyncIterator[Classification]:
        session, model, reader = self._session(), await self.connect(), self._reader
        assert reader is not None
        pending: deque[tuple[Chunk, asyncio.Future[Reply] | None]] = deque()
        found = chunks(images, model, on_error, reader, lambda: place == "server", first)
        failure: BaseException | None = None
        more = True
        try:
            while more or pending:
                answered = bool(pending) and (pending[0][1] is None or pending[0][1].done())
                if more and len(pending) < session.room and not answered:
                    try:
                        chunk = await asyncio.to_thread(next, found, None)
                    except Exception as error:  # of an image, or of the caller's iterable
                        failure, chunk = error, None
                    if chunk is None:
                        more = False
                    else:
                        request = chunk.request(model, self._decoder, top_k)
                        future = None if request is None else session.submit(request)
                        pending.append((chunk, future))
                    continue
                chunk, future = pending[0]
                reply = None if future is None else await future
                pending.popleft()
                for result in checked(chunk.results(reply, reader), on_error):
                    yield result
        finally:
            for _, future in pending:
                if future is not None:
                    future.cancel()
        if failure is not None:
            raise failure

    async def _stream_blocks(
        self, images: AsyncIterable[AnyImage], model: ServedModel, top_k: int, on_error: OnError
    ) -> AsyncIterator[Classification]:
        """Classify images that arrive asynchronously, a request's worth at a time."""
        place: Place = "server" if self._configuration.decode == "server" else "client"
        block: list[AnyImage] = []
        first = 1
        async for image in images:
            block.append(image)
            if len(block) == model.images_per_request:
                async for result in self._run(block, first, top_k, on_error, place):
                    yield result
                first, block = first + len(block), []
        async for result in self._run(block, first, top_k, on_error, place):
            yield result


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
