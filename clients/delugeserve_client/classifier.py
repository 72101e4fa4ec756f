"""The classifier: images in, predictions out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar, cast, overload

import numpy as np
import numpy.typing as npt

from delugeserve_client.address import Protocol, parse_address
from delugeserve_client.batching import (
    IN_FLIGHT,
    Chunk,
    OnError,
    check_arguments,
    check_batch,
    chunks,
    is_one_image,
    slices,
)
from delugeserve_client.core.retry import DEFAULT_RETRY, RetryPolicy
from delugeserve_client.credentials import Credentials
from delugeserve_client.preprocessing import ImageLike, Pixels
from delugeserve_client.results import Classification
from delugeserve_client.served import PROBABILITIES, ServedModel
from delugeserve_client.transport import open_transport
from delugeserve_client.triton import Reply

if TYPE_CHECKING:
    from typing_extensions import Self

Decode: TypeAlias = Literal["auto", "client", "server"]
SharedMemory: TypeAlias = Literal["auto", "off", "system", "cuda"]

_Item = TypeVar("_Item")


class Classifier:
    """Classifies images with a model that a Triton Inference Server serves.

    Args:
        url: ``localhost:8001`` or ``http://localhost:8000``; over TLS ``grpcs://host:8001`` or
            ``https://host:8000``.
        model: the model's name; by default the server's only model.
        protocol: ``grpc`` or ``http``; by default the URL's scheme, or gRPC without one. gRPC is
            faster, and several threads may share a classifier over it.
        model_version: the version to ask; by default the newest.
        timeout: seconds that the server has for each request.
        credentials: API key and certificates; by default those that the environment names, see
            :meth:`Credentials.from_environment`.

    Attributes:
        model: the model as its server describes it.

    Raises:
        AddressError: the URL is not of a known form.
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
    ) -> None:
        first = url if isinstance(url, str) else next(iter(url))
        self._transport = open_transport(parse_address(first, protocol), timeout, credentials)
        try:
            self.model: ServedModel = self._transport.connect(model, model_version)
        except BaseException:
            self._transport.close()
            raise

    @overload
    def classify(  # type: ignore[overload-overlap]
        self, images: ImageLike, top_k: int = 5, *, on_error: OnError = "raise"
    ) -> Classification: ...

    @overload
    def classify(
        self, images: Iterable[ImageLike], top_k: int = 5, *, on_error: OnError = "raise"
    ) -> list[Classification]: ...

    def classify(
        self,
        images: ImageLike | Iterable[ImageLike],
        top_k: int = 5,
        *,
        on_error: OnError = "raise",
    ) -> Classification | list[Classification]:
        """Classify images, or one image.

        Args:
            images: one image or any number of them: paths, the bytes of files, Pillow images, or
                uint8 arrays ``[H, W]``, ``[H, W, 3]`` (RGB) or ``[H, W, 4]`` (RGBA).
            top_k: number of predictions per image, the most probable first; at most the number
                of classes.
            on_error: for an image that cannot be read, ``raise`` its error, or ``return`` it as
                that image's result and classify the others.

        Returns:
            One result per image, in order; for a single image, its result.

        Raises:
            ImageError: an image cannot be read and ``on_error`` is ``raise``.
            ServerUnavailable: the server stopped answering.
            InferenceFailed: the server refused a request.
            ValueError: ``top_k`` is below 1.
        """
        if is_one_image(images):
            (result,) = self.stream([cast("ImageLike", images)], top_k, on_error=on_error)
            return result
        return list(self.stream(cast("Iterable[ImageLike]", images), top_k, on_error=on_error))

    def stream(
        self, images: Iterable[ImageLike], top_k: int = 5, *, on_error: OnError = "raise"
    ) -> Iterator[Classification]:
        """Classify images like :meth:`classify`, and yield the results one by one, in order.

        Images are read as requests are sent, so that there may be any number of them.
        """
        check_arguments(images, top_k, on_error)
        return self._stream(images, min(top_k, self.model.num_classes), on_error)

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
            InferenceFailed: the server refused a request.
        """
        check_batch(batch, self.model, output)
        replies = in_order(
            slices(batch, self.model),
            lambda part: self._transport.submit(self.model, part, {output: 0}),
        )
        parts = [reply[output] for _, reply in replies]
        return np.concatenate([np.empty((0, self.model.outputs[output]), np.float32), *parts])

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _stream(
        self, images: Iterable[ImageLike], top_k: int, on_error: OnError
    ) -> Iterator[Classification]:
        def submit(chunk: Chunk) -> Callable[[], Reply]:
            if not len(chunk.pixels):
                return dict
            return self._transport.submit(self.model, chunk.pixels, {PROBABILITIES: top_k})

        for chunk, reply in in_order(chunks(images, self.model, on_error), submit):
            yield from chunk.results(reply.get(PROBABILITIES))


def in_order(
    items: Iterable[_Item], submit: Callable[[_Item], Callable[[], Reply]]
) -> Iterator[tuple[_Item, Reply]]:
    """Keep several requests in flight, and yield their replies in the order of the items.

    Args:
        items: what to send; the next one is taken (and decoded) while the server works.
        submit: sends one item and returns a function that waits for its reply.
    """
    pending: deque[tuple[_Item, Callable[[], Reply]]] = deque()
    for item in items:
        pending.append((item, submit(item)))
        if len(pending) >= IN_FLIGHT:
            first, wait = pending.popleft()
            yield first, wait()
    for item, wait in pending:
        yield item, wait()
