"""Proof that an artefact still computes what the network computes.

An artefact is run twice. In fp32 it must repeat the network's logits to rounding: that proves the
graph and every weight in it. In the precision it will be served in, it must stay within that
precision's budget: that proves that the precision can be afforded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from delugeserve.errors import ParityError
from delugeserve_export.engines.base import Infer, Precision


@dataclass(frozen=True)
class Budget:
    """How far an artefact may stray.

    Attributes:
        error: root-mean-square logit error, as a fraction of the logits' standard deviation.
        agreement: least fraction of images with the same top-1 class.
        untrained_error: like ``error``, for a network without trained weights. Its logits hardly
            depend on the image, so rounding weighs more, and its classes are a toss-up.
    """

    error: float
    agreement: float
    untrained_error: float


BUDGETS: Mapping[Precision, Budget] = MappingProxyType(
    {
        "fp32": Budget(error=1e-3, agreement=0.999, untrained_error=2e-3),
        "bf16": Budget(error=0.05, agreement=0.98, untrained_error=0.5),
    }
)


@dataclass(frozen=True)
class Comparison:
    """An artefact beside the network, at one batch size.

    Attributes:
        precision: what the artefact computed in.
        batch_size: images in one call.
        num_images: different images compared.
        max_error: largest absolute difference of a logit.
        relative_error: root-mean-square difference over the logits' standard deviation.
        agreement: fraction of images with the same top-1 class.
    """

    precision: Precision
    batch_size: int
    num_images: int
    max_error: float
    relative_error: float
    agreement: float


def compare(
    infer: Infer,
    images: NDArray[np.uint8],
    reference: NDArray[np.float32],
    batch_size: int,
    precision: Precision,
) -> Comparison:
    """Run an artefact on images and compare its logits with the network's.

    Args:
        infer: the artefact.
        images: uint8 ``[K, H, W, 3]``. They are repeated in turn until the last batch is full, so
            that every call has exactly ``batch_size`` images.
        reference: the network's logits, float32 ``[K, classes]``.
        batch_size: images in one call.
        precision: what the artefact computes in.

    Raises:
        ParityError: the outputs have the wrong shape, are no numbers, or the probabilities are not
            the softmax of the logits.
    """
    count = len(images)
    rows = np.arange(-(-count // batch_size) * batch_size) % count
    logits = np.concatenate(
        [_infer_checked(infer, images[batch], reference) for batch in rows.reshape(-1, batch_size)]
    )
    error = logits.astype(np.float64) - reference[rows]
    spread = float(reference.std()) or 1.0
    return Comparison(
        precision=precision,
        batch_size=batch_size,
        num_images=count,
        max_error=float(np.abs(error).max()),
        relative_error=float(np.sqrt(np.mean(error**2))) / spread,
        agreement=float(np.mean(logits.argmax(axis=1) == reference[rows].argmax(axis=1))),
    )


def require_within_budget(comparison: Comparison, *, trained: bool) -> None:
    """Raise if an artefact strays further than its precision allows.

    Raises:
        ParityError: it does; the message says at which batch size and by how much.
    """
    budget = BUDGETS[comparison.precision]
    where = f"in {comparison.precision} at batch size {comparison.batch_size}"
    allowed = budget.error if trained else budget.untrained_error
    if comparison.relative_error > allowed:
        raise ParityError(
            f"The exported artefact's logits stray {comparison.relative_error:.2g} of their spread "
            f"from the network's {where}; {allowed:.2g} is allowed.",
            "Nothing was published; try --precision fp32 or another --backend.",
        )
    if trained and comparison.agreement < budget.agreement:
        raise ParityError(
            f"The exported artefact agrees with the network on {comparison.agreement:.1%} of the "
            f"images {where}; {budget.agreement:.1%} is the least allowed.",
            "Nothing was published; try --precision fp32 or another --backend.",
        )


def _infer_checked(
    infer: Infer, images: NDArray[np.uint8], reference: NDArray[np.float32]
) -> NDArray[np.float32]:
    logits, probabilities = infer(np.ascontiguousarray(images))
    expected = (len(images), reference.shape[1])
    if logits.shape != expected or probabilities.shape != expected:
        raise ParityError(
            f"The exported artefact answers {len(images)} images with logits {logits.shape} and "
            f"probabilities {probabilities.shape}, not {expected}.",
            "Nothing was published; try another --backend, and report this.",
        )
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    softmax = exponentials / exponentials.sum(axis=1, keepdims=True)
    # Not below the tolerance is also true of what is not a number.
    if not np.abs(softmax - probabilities).max() < 0.01:
        raise ParityError(
            "The exported artefact's probabilities are not the softmax of its logits.",
            "Nothing was published; try another --backend, and report this.",
        )
    return logits
