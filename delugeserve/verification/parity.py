"""How far an artefact's logits are from those of the network it was made from.

The network's logits in fp32 on real images are the reference; how much an artefact may differ
depends on the precision that it computes in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from delugeserve.artifacts.interface import Infer, Precision
from delugeserve.artifacts.records import Comparison, Flip
from delugeserve.errors import ParityError

_TOP = 5
_BINS = 40
_LEAST_SPREAD = 0.1  # 5 % of it, bf16's allowance, changes a probability by less than 0.5 %
_REPORT = "Export with another --backend, and report this as a bug."


@dataclass(frozen=True)
class Budget:
    """How much an artefact may differ from the network.

    Attributes:
        error: root-mean-square logit error, divided by the logits' standard deviation.
        agreement: least fraction of images with the same top-1 class. Images whose two classes are
            closer than twice the error count as the same.
        untrained_error: ``error`` for an untrained network, whose logits hardly depend on the
            image, so that rounding weighs more.
    """

    error: float
    agreement: float
    untrained_error: float

    def allowed_error(self, *, trained: bool) -> float:
        """Return the error allowed, with trained weights or without."""
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
    class_names: Sequence[str] = (),
) -> Comparison:
    """Run an artefact on images and compare its logits with the network's.

    Args:
        infer: runs the artefact.
        images: uint8 ``[K, H, W, 3]``; repeated until the last batch is full, so that every call
            has exactly ``batch_size`` images.
        reference: the network's logits, float32 ``[K, classes]``.
        batch_size: images per call.
        precision: what the artefact computes in.
        class_names: to name the classes of flips; empty for their indices.

    Raises:
        ParityError: the outputs have the wrong shape, are not finite, or the probabilities are not
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
        flips=_find_flips(logits[:count], reference, class_names),
        histogram=tuple(
            np.histogram(error, bins=_BINS, range=(-limit, limit))[0].tolist() if limit else ()
        ),
    )


def spread_of(logits: NDArray[np.float32]) -> float:
    """Return the standard deviation of logits, which errors are divided by; 0.1 at least.

    A network that was hardly trained gives nearly the same logits to all images. Rounding is large
    beside their differences then, but no larger than in other networks beside the logits.
    """
    return max(float(logits.std()), _LEAST_SPREAD)


def relative_error(
    logits: NDArray[np.float32], expected: NDArray[np.float32], spread: float
) -> float:
    """Return the root-mean-square difference of logits, divided by ``spread``."""
    error = logits.astype(np.float64) - expected
    return float(np.sqrt(np.mean(error**2))) / spread


def infer_checked(infer: Infer, images: NDArray[np.uint8], num_classes: int) -> NDArray[np.float32]:
    """Run an artefact and check the shape and type of its outputs.

    Returns:
        The logits, float32 ``[N, num_classes]``.

    Raises:
        ParityError: the outputs have the wrong shape, are not finite, or the probabilities are not
            the softmax of the logits.
    """
    logits, probabilities = infer(np.ascontiguousarray(images))
    expected = (len(images), num_classes)
    if logits.shape != expected or probabilities.shape != expected:
        raise ParityError(
            f"{len(images)} images gave logits of shape {logits.shape} and probabilities of shape "
            f"{probabilities.shape}, not {expected}.",
            _REPORT,
        )
    # Written so that NaN fails as well.
    if not np.abs(np.exp(_log_softmax(logits)) - probabilities).max() < 0.01:
        raise ParityError(
            "The probabilities are not the softmax of the logits.",
            _REPORT,
        )
    return logits


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _kl_divergence(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    ours, theirs = _log_softmax(logits), _log_softmax(expected)
    # Only rounding makes it negative.
    return max(0.0, float((np.exp(theirs) * (theirs - ours)).sum(axis=1).mean()))


def _top_agreement(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    top = min(_TOP, logits.shape[1])
    ours, theirs = (
        np.argsort(-values, axis=1, kind="stable")[:, :top] for values in (logits, expected)
    )
    return float((ours[:, :, None] == theirs[:, None, :]).any(axis=1).mean())


def _find_flips(
    logits: NDArray[np.float32], reference: NDArray[np.float32], class_names: Sequence[str]
) -> tuple[Flip, ...]:
    found, expected = logits.argmax(axis=1), reference.argmax(axis=1)
    names = class_names or [f"class {index}" for index in range(logits.shape[1])]
    flips = [
        Flip(
            image=int(row),
            expected=int(expected[row]),
            found=int(found[row]),
            expected_name=names[expected[row]],
            found_name=names[found[row]],
            margin=float(reference[row, expected[row]] - reference[row, found[row]]),
        )
        for row in np.flatnonzero(found != expected)
    ]
    return tuple(sorted(flips, key=lambda flip: -flip.margin))
