"""Images to requests and replies to results, in order: what both classifiers share.

Nothing here talks to a server.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from delugeserve_client.errors import BatchError, ImageError, OutputError
from delugeserve_client.preprocessing import ImageLike, Pixels, source_name
from delugeserve_client.results import Classification
from delugeserve_client.served import ServedModel, parse_predictions

LOGITS = "logits"

OnError: TypeAlias = Literal["raise", "return"]

# Requests in flight: one being computed, one waiting, and a margin for servers with several
# instances.
IN_FLIGHT = 4


@dataclass(frozen=True)
class Chunk:
    """Images that go into one request, and the unreadable ones among them.

    Attributes:
        sources: the images' names.
        errors: for each image, why it cannot be read, or None.
        pixels: uint8 ``[n, H, W, 3]``, the n readable images.
    """

    sources: tuple[str, ...]
    errors: tuple[ImageError | None, ...]
    pixels: Pixels

    def results(self, reply: npt.NDArray[np.object_] | None) -> list[Classification]:
        """Merge the server's reply and the errors, in the images' order.

        Args:
            reply: the classification extension's strings, ``[n, top_k]``; None where n is 0.
        """
        rows = iter(() if reply is None else reply)
        return [
            Classification(source, (), error)
            if error is not None
            else Classification(source, parse_predictions(next(rows)))
            for source, error in zip(self.sources, self.errors, strict=True)
        ]


def chunks(images: Iterable[ImageLike], model: ServedModel, on_error: OnError) -> Iterator[Chunk]:
    """Decode images one by one and yield full requests.

    Raises:
        ImageError: an image cannot be read and ``on_error`` is ``raise``.
    """
    size = model.images_per_request
    sources: list[str] = []
    errors: list[ImageError | None] = []
    pixels: list[Pixels] = []

    def chunk() -> Chunk:
        stacked = np.stack(pixels) if pixels else np.empty((0, *model.image_shape), np.uint8)
        return Chunk(tuple(sources), tuple(errors), stacked)

    for number, image in enumerate(images, start=1):
        source = source_name(image, number)
        error = None
        try:
            pixels.append(model.preprocessing(image, source))
        except ImageError as unreadable:
            if on_error == "raise":
                raise
            error = unreadable
        sources.append(source)
        errors.append(error)
        # A long run of unreadable images must not delay the results before it.
        if len(pixels) == size or len(sources) >= 2 * size:
            yield chunk()
            sources, errors, pixels = [], [], []
    if sources:
        yield chunk()


def is_one_image(images: Any) -> bool:
    """Return whether an argument is one image and not several."""
    return isinstance(images, (str, os.PathLike, bytes, Image.Image)) or (
        isinstance(images, np.ndarray) and images.ndim != 4
    )


def check_arguments(images: Any, top_k: int, on_error: str) -> None:
    """Check the arguments of ``classify``.

    Raises:
        TypeError: ``images`` is one image.
        ValueError: ``top_k`` is below 1, or ``on_error`` is neither ``raise`` nor ``return``.
    """
    if is_one_image(images):
        raise TypeError("images must be a list of images; write [image] for a single one")
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    if on_error not in ("raise", "return"):
        raise ValueError(f"on_error must be 'raise' or 'return', not {on_error!r}")


def check_batch(batch: Pixels, model: ServedModel, output: str) -> None:
    """Check that the model takes a batch and has an output.

    Raises:
        BatchError: the batch is not uint8 ``[N, H, W, 3]`` with the model's H and W.
        OutputError: the model has no output of this name.
    """
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
