"""Properties that hold for the batches of any classifier, whatever its weights.

An image's logits must not depend on its row or on the other images of the batch. They do where rows
are mixed up, where the batch size was fixed to one, or where a buffer is shared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from delugeserve.artifacts.interface import Infer
from delugeserve.verification.parity import infer_checked, relative_error, spread_of


@dataclass(frozen=True)
class Invariance:
    """One property, measured.

    Attributes:
        name: what must not change the logits.
        batch_size: images per call.
        exact: both results come from batches of this size, so that rounding should be the same.
        relative_error: root-mean-square difference of the logits, divided by their standard
            deviation.
        worst_image: index of the image whose logits differ most.
    """

    name: str
    batch_size: int
    exact: bool
    relative_error: float
    worst_image: int


def try_invariances(
    infer: Infer, images: NDArray[np.uint8], num_classes: int, *, seed: int = 0
) -> tuple[Invariance, ...]:
    """Compare equal images, shuffled images, and single images with the batch.

    Args:
        infer: runs the artefact.
        images: one batch of at least two different images, uint8 ``[N, H, W, 3]``.
        num_classes: length of the logits.
        seed: of the shuffled order.

    Raises:
        ParityError: an output is malformed.
    """
    count = len(images)

    def run(rows: NDArray[np.uint8]) -> NDArray[np.float32]:
        return infer_checked(infer, rows, num_classes)

    together = run(images)
    order = np.random.default_rng(seed).permutation(count)
    if (order == np.arange(count)).all():  # the identity would test nothing
        order = order[::-1]
    shuffled = run(images[order])
    equal = run(np.repeat(images[:1], count, axis=0))
    alone = np.concatenate([run(images[row : row + 1]) for row in range(count)])

    spread = spread_of(together)
    pairs = {
        "equal images": (equal, np.repeat(equal[:1], count, axis=0)),
        "shuffled images": (shuffled, together[order]),
        "single images": (alone, together),
    }
    return tuple(
        Invariance(
            name,
            count,
            name != "single images",
            relative_error(found, expected, spread),
            int(np.abs(found - expected).max(axis=1).argmax()),
        )
        for name, (found, expected) in pairs.items()
    )
