"""What must hold of any classifier's batches, whatever its weights: no reference is needed.

Whether an image is alone in a batch, beside which others and in which row must not matter. It does
where rows are mixed up, where a batch was frozen at one image, or where a buffer is shared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from delugeserve.artifacts.interface import Infer
from delugeserve.verification.parity import infer_checked, relative_error, spread_of


@dataclass(frozen=True)
class Invariance:
    """One such property, tried out.

    Attributes:
        name: what must not matter.
        batch_size: images of one call.
        exact: both answers come from batches of this size, in which every row is computed alike,
            so that nothing should be rounded otherwise.
        relative_error: root-mean-square difference of the logits over their standard deviation.
        worst_image: the image whose logits differ most.
    """

    name: str
    batch_size: int
    exact: bool
    relative_error: float
    worst_image: int


def try_invariances(
    infer: Infer, images: NDArray[np.uint8], num_classes: int, *, seed: int = 0
) -> tuple[Invariance, ...]:
    """Try equal rows, shuffled rows, and images one by one.

    Args:
        infer: the artefact.
        images: uint8 ``[N, H, W, 3]``, one batch of different images; at least two.
        num_classes: length of the logits.
        seed: of the order that the rows are shuffled into.

    Raises:
        ParityError: an output is malformed.
    """
    count = len(images)

    def run(rows: NDArray[np.uint8]) -> NDArray[np.float32]:
        return infer_checked(infer, rows, num_classes)

    together = run(images)
    order = np.random.default_rng(seed).permutation(count)
    if (order == np.arange(count)).all():  # which says nothing
        order = order[::-1]
    shuffled = run(images[order])
    equal = run(np.repeat(images[:1], count, axis=0))
    alone = np.concatenate([run(images[row : row + 1]) for row in range(count)])

    spread = spread_of(together)
    pairs = {
        "equal rows": (equal, np.repeat(equal[:1], count, axis=0)),
        "shuffled rows": (shuffled, together[order]),
        "one by one": (alone, together),
    }
    return tuple(
        Invariance(
            name,
            count,
            name != "one by one",
            relative_error(found, expected, spread),
            int(np.abs(found - expected).max(axis=1).argmax()),
        )
        for name, (found, expected) in pairs.items()
    )
