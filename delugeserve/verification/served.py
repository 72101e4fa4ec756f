"""Compare what a server answers with the network's logits.

A server may offer probabilities alone. The softmax forgets a constant per image: the logarithms of
the probabilities are the logits but for that constant. Both sides are therefore shifted so that
each image's mean is 0.

A server may take encoded images. They are written so that decoding and preprocessing give the
pixels that the logits are for.
"""

from __future__ import annotations

import dataclasses
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from delugeserve.verification.evidence import Evidence
from delugeserve_client.preprocessing import Preprocessing

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


def encode_exactly(images: NDArray[np.uint8], preprocessing: Preprocessing) -> list[bytes] | None:
    """Return PNG files that preprocessing turns into these very pixels.

    Args:
        images: uint8 ``[N, H, W, 3]``, with the H and W of ``preprocessing``.
        preprocessing: how an image becomes an input.

    Returns:
        One file for each image; None if the input is not square, or the crop does not fall on whole
        pixels.
    """
    margin, odd = divmod(preprocessing.resize_size - preprocessing.height, 2)
    if odd or preprocessing.height != preprocessing.width:
        return None
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
    files = []
    for image in padded:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG")
        files.append(stream.getvalue())
    return files


def _centre(logarithms: NDArray[np.float64]) -> NDArray[np.float32]:
    limited = np.maximum(logarithms, _LEAST)
    centred: NDArray[np.float32] = (limited - limited.mean(axis=1, keepdims=True)).astype(
        np.float32
    )
    return centred
