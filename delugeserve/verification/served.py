"""Compare a server that offers probabilities alone with the network's logits.

The softmax forgets a constant per image: the logarithms of the probabilities are the logits but for
that constant. Both sides are therefore shifted so that each image's mean is 0.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from delugeserve.verification.evidence import Evidence

_LEAST = float(np.log(np.finfo(np.float32).tiny))
"""Logarithm of the least probability that float32 holds in full precision."""


def centred_logits(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits behind probabilities, shifted to a mean of 0 for each image.

    Args:
        probabilities: float32 ``[N, classes]``.

    Returns:
        float32 ``[N, classes]``.
    """
    with np.errstate(divide="ignore"):
        return _centre(np.log(probabilities.astype(np.float64)))


def centred_evidence(evidence: Evidence) -> Evidence:
    """Return evidence to compare :func:`centred_logits` with."""
    logits = evidence.logits.astype(np.float64)
    logits = logits - logits.max(axis=1, keepdims=True)
    shares = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return dataclasses.replace(evidence, logits=_centre(shares))


def _centre(logarithms: NDArray[np.float64]) -> NDArray[np.float32]:
    limited = np.maximum(logarithms, _LEAST)
    centred: NDArray[np.float32] = (limited - limited.mean(axis=1, keepdims=True)).astype(
        np.float32
    )
    return centred
