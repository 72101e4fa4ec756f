"""How far an artefact's answers lie from those of the network it was made from.

The network's answers, its logits in fp32 on real images, are the reference; how far an artefact
may stray depends on the precision it computes in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from delugeserve.artifacts.interface import Infer, Precision
from delugeserve.artifacts.records import Comparison, Flip
from delugeserve.errors import ParityError

_TOP = 5
_BINS = 40


@dataclass(frozen=True)
class Budget:
    """How far an artefact may stray.

    Attributes:
        error: root-mean-square logit error, as a fraction of the logits' standard deviation.
        agreement: least fraction of images with the same top-1 class, not counting those on which
            the network was all but undecided: by no more than twice the error.
        untrained_error: like ``error``, for a network without trained weights. Its logits hardly
            depend on the image, so rounding weighs more, and its classes are a toss-up.
    """

    error: float
    agreement: float
    untrained_error: float

    def allowed_error(self, *, trained: bool) -> float:
        """The ``error`` that a network may make, with trained weights or without."""
        return self.error if trained else self.untrained_error


BUDGETS: Mapping[Precision, Budget] = MappingProxyType(
    {
        "fp32": Budget(error=1e-3, agreement=0.999, untrained_error=2e-3),
        "fp16": Budget(error=0.005, agreement=0.995, untrained_error=0.2),
        "bf16": Budget(error=0.05, agreement=0.98, untrained_error=0.5),
        "int8": Budget(error=0.15, agreement=0.97, untrained_error=0.7),
    }
)


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
        [
            infer_checked(infer, images[batch], reference.shape[1])
            for batch in rows.reshape(-1, batch_size)
        ]
    )
    expected = reference[rows]
    error = logits.astype(np.float64) - expected
    largest = np.abs(error).max(axis=1)
    limit = float(largest.max())
    return Comparison(
        precision=precision,
        batch_size=batch_size,
        num_images=count,
        max_error=limit,
        worst_image=int(rows[largest.argmax()]),
        mean_error=float(np.abs(error).mean()),
        relative_error=relative_error(logits, expected, spread_of(reference)),
        top1_agreement=float(np.mean(logits.argmax(axis=1) == expected.argmax(axis=1))),
        top5_agreement=_top_agreement(logits, expected),
        kl_divergence=_kl_divergence(logits, expected),
        flips=_find_flips(logits[:count], reference),
        histogram=tuple(
            np.histogram(error, bins=_BINS, range=(-limit, limit))[0].tolist() if limit else ()
        ),
    )


def spread_of(logits: NDArray[np.float32]) -> float:
    """The standard deviation of logits, which errors are measured against; never zero."""
    return float(logits.std()) or 1.0


def relative_error(
    logits: NDArray[np.float32], expected: NDArray[np.float32], spread: float
) -> float:
    """Root-mean-square difference of logits, as a fraction of their spread."""
    error = logits.astype(np.float64) - expected
    return float(np.sqrt(np.mean(error**2))) / spread


def infer_checked(infer: Infer, images: NDArray[np.uint8], num_classes: int) -> NDArray[np.float32]:
    """Run an artefact and check the form of its answers.

    Returns:
        The logits, float32 ``[N, num_classes]``.

    Raises:
        ParityError: the outputs have the wrong shape, are no numbers, or the probabilities are not
            the softmax of the logits.
    """
    logits, probabilities = infer(np.ascontiguousarray(images))
    expected = (len(images), num_classes)
    if logits.shape != expected or probabilities.shape != expected:
        raise ParityError(
            f"{len(images)} images are answered with logits {logits.shape} and probabilities "
            f"{probabilities.shape}, not {expected}.",
            "Try another --backend, and report this.",
        )
    # Not below the tolerance is also true of what is not a number.
    if not np.abs(np.exp(_log_softmax(logits)) - probabilities).max() < 0.01:
        raise ParityError(
            "The probabilities are not the softmax of the logits.",
            "Try another --backend, and report this.",
        )
    return logits


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _kl_divergence(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    ours, theirs = _log_softmax(logits), _log_softmax(expected)
    # It is never negative but for rounding.
    return max(0.0, float((np.exp(theirs) * (theirs - ours)).sum(axis=1).mean()))


def _top_agreement(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    top = min(_TOP, logits.shape[1])
    ours, theirs = (
        np.argsort(-values, axis=1, kind="stable")[:, :top] for values in (logits, expected)
    )
    return float((ours[:, :, None] == theirs[:, None, :]).any(axis=1).mean())


def _find_flips(logits: NDArray[np.float32], reference: NDArray[np.float32]) -> tuple[Flip, ...]:
    found, expected = logits.argmax(axis=1), reference.argmax(axis=1)
    flips = [
        Flip(
            image=int(row),
            expected=int(expected[row]),
            found=int(found[row]),
            margin=float(reference[row, expected[row]] - reference[row, found[row]]),
        )
        for row in np.flatnonzero(found != expected)
    ]
    return tuple(sorted(flips, key=lambda flip: -flip.margin))
