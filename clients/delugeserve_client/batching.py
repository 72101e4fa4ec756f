"""Images to requests and replies to results, in order: what both classifiers share.

Nothing here talks to a server.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from delugeserve_client.errors import ArgumentError, BatchError, ImageError, OutputError
from delugeserve_client.images.inputs import is_one_image
from delugeserve_client.images.reading import Reader, Ready
from delugeserve_client.preprocessing import Pixels
from delugeserve_client.results import Classification
from delugeserve_client.served import PROBABILITIES, ImageModel, ServedModel, parse_predictions
from delugeserve_client.transports.messages import Reply, Request, image_request, pixel_request

LOGITS = "logits"

OnError: TypeAlias = Literal["raise", "return"]

_LONGEST_HELD = 0.05
"""Seconds after which a request that is not full is sent if nothing else is in flight."""

_LARGEST_ENCODED = 16 * 2**20
"""Bytes of encoded images after which a request is full; a server takes 64 MiB by default."""


@dataclass(frozen=True)
class Chunk:
    """Images that go into one request, and the unreadable ones among them.

    Attributes:
        images: all of them, in order.
        encoded: whether the request carries the contents of files.
    """

    images: tuple[Ready, ...]
    encoded: bool = False

    @property
    def readable(self) -> list[Ready]:
        """Those that the request carries."""
        return [image for image in self.images if image.error is None]

    def request(self, model: ServedModel, decoder: ImageModel | None, top_k: int) -> Request | None:
        """Return the request that classifies the images; None if none can be read.

        Decoded images are then held by the request alone.

        Args:
            model: the model that takes pixels.
            decoder: the model that takes encoded images, if these are.
            top_k: number of classes wanted.
        """
        contents: list[Any] = [image.content for image in self.readable]
        if not contents:
            return None
        outputs = {PROBABILITIES: top_k}
        if self.encoded and decoder is not None:
            outputs[decoder.error_name] = 0
            return image_request(decoder.name, model.version, decoder.input_name, contents, outputs)
        pixels = np.stack(contents)
        for image in self.images:
            image.content = None
        return pixel_request(model.name, model.version, model.input_name, pixels, outputs)

    def results(self, reply: Reply | None, reader: Reader | None = None) -> list[Classification]:
        """Merge the server's reply and the errors, in the images' order.

        Args:
            reply: the reply to :meth:`request`; None if there was none.
            reader: finds out what is wrong with an image that the server cannot read.
        """
        rows: Iterator[Any] = iter(() if reply is None else reply.outputs[PROBABILITIES])
        problems: Iterator[Any] = iter(())
        if self.encoded and reply is not None:
            problems = iter(reply.outputs["error"])
        found = []
        for image in self.images:
            error = image.error
            if error is None:
                row, (problem, *_) = next(rows), next(problems, [b""])
                if not problem:
                    found.append(Classification(image.source, parse_predictions(row)))
                    continue
                error = _unreadable(image, problem, reader)
            found.append(Classification(image.source, (), error))
        return found


def _unreadable(image: Ready, problem: bytes, reader: Reader | None) -> ImageError:
    """Return the error of an image that the server could not read, in this client's words."""
    if reader is not None and isinstance(image.content, bytes):
        here = reader.read(image.content, image.source, encoded=False)
        if here.error is not None:
            return here.error
    sentence, _, remedy = problem.decode("utf-8", "replace").partition(". ")
    return ImageError(
        f"{image.source}: {sentence.rstrip('.')}.",
        remedy or "Convert it to JPEG or PNG.",
        source=image.source,
    )


def chunks(
    images: Iterable[Ready],
    size: int,
    on_error: OnError,
    is_idle: Callable[[], bool] = lambda: False,
) -> Iterator[Chunk]:
    """Gather images to full requests, and to smaller ones where images come slowly.

    Args:
        images: the images.
        size: number of images in a full request.
        on_error: see :meth:`delugeserve_client.Classifier.classify`.
        is_idle: returns whether no request is in flight.

    Raises:
        ImageError: an image cannot be read and ``on_error`` is ``raise``.
    """
    held: list[Ready] = []
    readable = volume = 0
    kind: bool | None = None  # whether the images held are encoded
    since = time.monotonic()  # when the caller began to wait for this request
    try:
        for image in images:
            if image.error is not None:
                if on_error == "raise":
                    raise image.error
            else:
                is_encoded = isinstance(image.content, bytes)
                length = len(image.content) if isinstance(image.content, bytes) else 0
                if kind not in (None, is_encoded) or (
                    readable and volume + length > _LARGEST_ENCODED
                ):
                    yield Chunk(tuple(held), bool(kind))
                    held, readable, volume, since = [], 0, 0, time.monotonic()
                kind, readable, volume = is_encoded, readable + 1, volume + length
            held.append(image)
            # A long run of unreadable images, or a slow source, must not delay what came before.
            if (
                readable == size
                or len(held) >= 2 * size
                or (is_idle() and time.monotonic() - since > _LONGEST_HELD)
            ):
                yield Chunk(tuple(held), bool(kind))
                held, readable, volume, kind = [], 0, 0, None
                since = time.monotonic()
    except Exception:  # what came before it is sent
        if held:
            yield Chunk(tuple(held), bool(kind))
        raise
    if held:
        yield Chunk(tuple(held), bool(kind))


def checked(results: Iterable[Classification], on_error: OnError) -> Iterator[Classification]:
    """Yield results, and raise the error of the first unreadable image if that is wanted."""
    for result in results:
        if result.error is not None and on_error == "raise":
            raise result.error
        yield result


def check_arguments(images: Any, top_k: int, on_error: str) -> int:
    """Check the arguments of ``stream``, and return ``top_k`` as an ordinary number.

    Raises:
        TypeError: ``images`` is one image.
        ValueError: ``top_k`` is below 1, or ``on_error`` is neither ``raise`` nor ``return``.
    """
    if is_one_image(images):
        raise TypeError("images must be a list of images; write [image] for a single one")
    try:
        count = 0 if isinstance(top_k, bool) else operator.index(top_k)
    except TypeError:
        count = 0
    if count < 1:
        raise ArgumentError(
            f"top_k is {top_k!r}.",
            "Use a whole number from 1 up.",
            argument="top_k",
            value=repr(top_k),
        )
    if on_error not in ("raise", "return"):
        raise ArgumentError(
            f"on_error is {on_error!r}.",
            "Use 'raise' or 'return'.",
            argument="on_error",
            value=repr(on_error),
        )
    return count


def check_batch(batch: Pixels, model: ServedModel, output: str) -> None:
    """Check that the model takes a batch and has an output.

    Raises:
        BatchError: the batch is not uint8 ``[N, H, W, 3]`` with the model's H and W.
        OutputError: the model has no output of this name.
    """
    if not isinstance(batch, np.ndarray):
        raise BatchError(
            f"The batch is a {type(batch).__name__}, not an array of NumPy.",
            "Give numpy.asarray(batch), of uint8.",
            expected_shape=(None, *model.image_shape),
            expected_dtype="uint8",
        )
    if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != model.image_shape:
        height, width, _ = model.image_shape
        raise BatchError(
            f"The model '{model.name}' takes uint8 [N, {height}, {width}, 3], not "
            f"{batch.dtype} {list(batch.shape)}.",
            _batch_remedy(batch, model),
            expected_shape=(None, *model.image_shape),
            expected_dtype="uint8",
            shape=batch.shape,
            dtype=str(batch.dtype),
        )
    if output not in model.outputs:
        known = sorted(model.outputs)
        raise OutputError(
            f"The model '{model.name}' has no output '{output}'.",
            "Use probabilities, or export the model with --outputs logits,probabilities."
            if output == LOGITS
            else f"Use one of: {', '.join(known)}.",
            output=output,
            known=known,
        )


def _batch_remedy(batch: npt.NDArray[Any], model: ServedModel) -> str:
    if batch.shape == model.image_shape:
        return "Add the batch dimension: batch[None]."
    if batch.ndim != 4 or batch.shape[1:] != model.image_shape:
        return "Use classify(), which resizes images, or model.preprocessing(image) for each."
    return "Give RGB pixels from 0 to 255 as uint8; the model normalises them itself."


def slices(batch: Pixels, model: ServedModel) -> Iterator[Pixels]:
    """Cut a batch of any length into requests."""
    size = model.images_per_request
    for start in range(0, len(batch), size):
        yield batch[start : start + size]
