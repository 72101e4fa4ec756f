"""The classifier for threads: images in, predictions out."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
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
from delugeserve_client.connecting import Decoder, connect, find_decoder
from delugeserve_client.core.decoding import DecodingChoice
from delugeserve_client.core.observing import Observer
from delugeserve_client.core.retry import DEFAULT_RETRY, RetryPolicy
from delugeserve_client.credentials import Credentials
from delugeserve_client.errors import ClientError
from delugeserve_client.explaining import closed, forked
from delugeserve_client.images.inputs import AnyImage, each, is_one_image, name_of
from delugeserve_client.images.reading import Reader
from delugeserve_client.preprocessing import Pixels
from delugeserve_client.results import Classification
from delugeserve_client.served import PROBABILITIES, ServedModel, images_in_request, takes_no_images
from delugeserve_client.streaming import AskServer, Part, Step, Window, never, parts
from delugeserve_client.tracing import observe
from delugeserve_client.transports.connection import Compression, SharedMemory
from delugeserve_client.transports.messages import Reply, pixel_request
from delugeserve_client.transports.threads import ThreadSession

if TYPE_CHECKING:
    from typing_extensions import Self


class Classifier:
    """Classifies images with a model that a Triton Inference Server serves.

    Several threads may share a classifier.

    Args:
        url: ``localhost:8001`` or ``http://localhost:8000``; over TLS ``grpcs://host:8001`` or
            ``https://host:8000``. Several addresses of servers of the same model share the
            requests; one that stops or hangs gets none until it is back.
        model: the model's name; by default the server's only model.
        protocol: ``grpc`` or ``http``; by default the URL's scheme, or gRPC without one. gRPC is
            faster.
        model_version: the version to ask; by default the newest.
        timeout: seconds of a request over all attempts, from the moment it is sent first;
            ``float("inf")`` for no limit. Waiting in this client does not count.
        credentials: API key and certificates; by default those that the environment names, see
            :meth:`Credentials.from_environment`.
        decode: where encoded images are decoded: here (``client``), by the ``server``, or where
            the first requests of a long stream are faster (``auto``).
        retry: how failed attempts are repeated.
        hedge: seconds after which a request without an answer is sent a second time, to another
            server if there is one. The first answer counts.
        in_flight: number of requests to one server at once; None follows the server.
        shared_memory: how inputs go to a server of the same machine: through the memory of the
            ``system`` or of a GPU (``cuda``), or ``off``, through the connection. ``auto`` uses
            the system's where that is faster and the server allows it.
        max_pixels: largest image, in pixels; None for Pillow's limit of 89 million.
        headers: headers of every request.
        compression: ``gzip`` compresses requests.
        observer: is told what happens to requests.

    Attributes:
        model: the model as its server describes it.

    Raises:
        AddressError: the URL is not of a known form.
        ArgumentError: another argument is out of range.
        ServerUnavailable: no server answers at the URL, or it speaks the other protocol.
        AuthenticationFailed: the server does not accept the credentials, or is not trusted.
        ModelUnavailable: the server does not serve the model, the model does not classify images,
            or no model is given and the server does not serve exactly one.
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
        self._observer = observe(self._configuration.addresses, observer)
        self._closed = False
        self._choice, self._decoder = DecodingChoice(), Decoder()
        self._open()
        try:
            self.model: ServedModel = connect(
                self._sessions.connections, self._configuration, model, model_version
            )
            self._sessions.model = (self.model.name, self.model.version)
            self._reader = Reader(self.model.preprocessing, self._configuration.max_pixels)
            if decode == "server":
                self._find_decoder()
                if self._decoder.model is None:
                    raise takes_no_images(self.model.name)
        except BaseException:
            self._sessions.close()
            raise

    @overload
    def classify(  # type: ignore[overload-overlap]
        self, images: AnyImage, top_k: int = 5, *, on_error: OnError = "raise"
    ) -> Classification: ...

    @overload
    def classify(
        self, images: Iterable[AnyImage], top_k: int = 5, *, on_error: OnError = "raise"
    ) -> list[Classification]: ...

    def classify(
        self,
        images: AnyImage | Iterable[AnyImage],
        top_k: int = 5,
        *,
        on_error: OnError = "raise",
    ) -> Classification | list[Classification]:
        """Classify images, or one image.

        Args:
            images: one image or any number of them: paths, http(s) URLs, the bytes of files, file
                objects, Pillow images, or uint8 arrays and DLPack tensors ``[H, W]``,
                ``[H, W, 3]`` (RGB) or ``[H, W, 4]`` (RGBA).
            top_k: number of predictions per image, the most probable first; at most the number
                of classes.
            on_error: for an image that cannot be read, ``raise`` its error, or ``return`` it as
                that image's result and classify the others.

        Returns:
            One result per image, in order; for a single image, its result.

        Raises:
            ImageError: an image cannot be read and ``on_error`` is ``raise``.
            ServerUnavailable: the server stopped answering.
            InferenceFailed: the server refused a request, or failed at it.
            ClassifierClosed: the classifier is closed.
            ArgumentError: ``top_k`` is below 1.
        """
        if is_one_image(images):
            (result,) = self.stream([cast("AnyImage", images)], top_k, on_error=on_error)
            return result
        return list(self.stream(cast("Iterable[AnyImage]", images), top_k, on_error=on_error))

    def stream(
        self,
        images: Iterable[AnyImage],
        top_k: int = 5,
        *,
        on_error: OnError = "raise",
        full_requests: bool = False,
    ) -> Iterator[Classification]:
        """Classify images like :meth:`classify`, and yield the results one by one, in order.

        Images are read as requests are sent, so that there may be any number of them. An error is
        raised after all results before it were yielded.

        Args:
            images: see :meth:`classify`; not a single one.
            top_k: see :meth:`classify`.
            on_error: see :meth:`classify`.
            full_requests: do not send requests that are not full where images come slowly. Which
                images a request has, on which the last digits of a probability may depend, is then
                the same each time.

        Raises:
            TypeError: ``images`` is a single image.
        """
        top_k = check_arguments(images, top_k, on_error)
        self._check_open()
        top_k = min(top_k, self.model.num_classes)
        return self._stream(each(images), top_k, on_error, full=full_requests)

    def infer(self, batch: Pixels, output: str = PROBABILITIES) -> npt.NDArray[np.float32]:
        """Run the model on prepared images.

        Args:
            batch: uint8 ``[N, H, W, 3]``, RGB, with the model's H and W. N may be any number: the
                batch is split into requests.
            output: ``probabilities``, or ``logits`` of a model that was exported with them.

        Returns:
            float32 ``[N, classes]``.

        Raises:
            BatchError: the batch's shape or dtype is not the model's.
            OutputError: the model has no output of this name.
            ServerUnavailable: the server stopped answering.
            InferenceFailed: the server refused a request, or failed at it.
            ClassifierClosed: the classifier is closed.
        """
        session, model = self._check_open(), self.model
        check_batch(batch, model, output)
        requests = (
            pixel_request(model.name, model.version, model.input_name, part, {output: 0})
            for part in slices(batch, model)
        )
        if 0 < len(batch) <= model.images_per_request:
            values: Any = session.run(next(requests)).outputs[output]
            return np.array(values)  # its own memory, which may be written to
        pending: deque[Future[Reply]] = deque()
        parts: list[Any] = [np.empty((0, model.outputs[output]), np.float32)]
        try:
            for request in requests:
                pending.append(session.submit(request))
                if len(pending) >= session.room:
                    parts.append(pending.popleft().result().outputs[output])
            while pending:
                parts.append(pending.popleft().result().outputs[output])
        finally:
            for future in pending:
                session.forget(future)
        return np.concatenate(parts)

    def close(self) -> None:
        """Close the connections. Requests in other threads end with ClassifierClosed."""
        self._closed = True
        if self._pid == os.getpid():
            self._reader.close()
            self._sessions.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self) -> None:
        configuration = self._configuration
        self._pid = os.getpid()
        self._sessions = ThreadSession(
            configuration.addresses,
            configuration.options,
            configuration.settings,
            self._observer,
        )

    def _check_open(self) -> ThreadSession:
        """Return the session of this process.

        Raises:
            ClassifierClosed: the classifier is closed.
            ForkedClassifier: it was made in another process, over gRPC.
        """
        if self._closed:
            raise closed()
        if self._pid != os.getpid():
            if any(one.protocol == "grpc" for one in self._configuration.addresses):
                raise forked(self._pid)
            self._open()
            self._sessions.model = (self.model.name, self.model.version)
            self._reader = Reader(self.model.preprocessing, self._configuration.max_pixels)
        return self._sessions

    def _find_decoder(self) -> None:
        connections = self._sessions.connections
        self._decoder.found(find_decoder(connections, self._configuration, self.model))

    def _takes_encoded(self) -> bool:
        """Return whether encoded images may be sent; a server that does not say takes none."""
        if self._decoder.is_unknown:
            try:
                self._find_decoder()
            except ClientError:
                self._decoder.failed()
        return self._decoder.model is not None

    def _stream(
        self, images: Iterable[AnyImage], top_k: int, on_error: OnError, *, full: bool
    ) -> Iterator[Classification]:
        decode, size = self._configuration.decode, self.model.images_per_request
        steps = parts(images, size, decode, self._choice, full=full)
        step: Step | None = next(steps)
        while step is not None:
            outcome: bool | float = 0.0
            if isinstance(step, AskServer):
                outcome = self._takes_encoded()
            elif step.is_trial:
                start = time.perf_counter()
                results, failure = _collect(self._run(step, top_k, on_error))
                outcome = time.perf_counter() - start
                yield from results
                if failure is not None:
                    raise failure
            else:
                yield from self._run(step, top_k, on_error)
                return
            step = steps.send(outcome)

    def _run(self, part: Part, top_k: int, on_error: OnError) -> Iterator[Classification]:
        session, reader, images = self._check_open(), self._reader, part.images
        if isinstance(images, Sequence) and len(images) == 1:
            yield self._run_one(session, images[0], part, top_k, on_error)
            return
        decoder, encoded = self._decoder.model, part.place == "server"
        size = images_in_request(self.model, decoder if encoded else None)
        window: Window[Future[Reply]] = Window()
        ready = reader.stream(images, size, encoded, part.first)
        found = chunks(ready, size, on_error, never if part.full else window.is_idle)
        failure: BaseException | None = None
        more = True
        try:
            while more or window:
                window.check_process()
                if more and window.has_room(session.room) and not window.is_answered:
                    try:
                        chunk = next(found, None)
                    except Exception as error:  # of an image, or of the caller's iterable
                        failure, chunk = error, None
                    if chunk is None:
                        more = False
                    else:
                        request = chunk.request(self.model, decoder, top_k)
                        answer = None if request is None else session.submit(request)
                        window.add(chunk, request, answer)
                        del request  # its pixels go once it is answered
                    continue
                waited_for = window.answer
                reply = None if waited_for is None else waited_for.result()
                yield from checked(window.pop().results(reply, reader), on_error)
        finally:
            window.cancel(session.forget)
        if failure is not None:
            raise failure

    def _run_one(
        self, session: ThreadSession, image: AnyImage, part: Part, top_k: int, on_error: OnError
    ) -> Classification:
        encoded = part.place == "server"
        ready = self._reader.read(image, name_of(image, part.first), encoded=encoded)
        chunk = Chunk((ready,), isinstance(ready.content, bytes))
        request = chunk.request(self.model, self._decoder.model, top_k)
        reply = None if request is None else session.run(request)
        return next(checked(chunk.results(reply, self._reader), on_error))


def _collect(
    results: Iterator[Classification],
) -> tuple[list[Classification], Exception | None]:
    """Return all results before an error, and the error."""
    found = []
    try:
        for result in results:
            found.append(result)
    except Exception as error:
        return found, error
    return found, None
