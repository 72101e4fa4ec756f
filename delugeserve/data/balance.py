"""Classes of unequal size: weights for the loss, and an order in which all are equally frequent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def class_weights(labels: NDArray[np.int64], num_classes: int) -> NDArray[np.float32]:
    """Return a weight for each class, inversely proportional to its number of images.

    The mean weight of an image is 1, so that a learning rate means the same with and without
    weights.

    Args:
        labels: int64 ``[N]``, the labels of the training images.
        num_classes: number of classes K.

    Returns:
        float32 ``[K]``; 1 for a class without images.
    """
    counts = np.bincount(labels, minlength=num_classes)
    present = np.count_nonzero(counts)
    weights = len(labels) / (present * np.maximum(counts, 1))
    return np.where(counts, weights, 1).astype(np.float32)


def balanced_draw(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw as many images as there are, equally many of each class.

    The images of a small class are repeated, each of them equally often within one, and those of a
    large one are a random selection. Which classes get one image more, if the number cannot be
    divided equally, is drawn too.

    Args:
        labels: int64 ``[N]``.
        rng: random number generator.

    Returns:
        Indices of the images, int64 ``[N]``, ascending.
    """
    counts = np.bincount(labels)
    present = rng.permutation(np.flatnonzero(counts))
    wanted = len(labels) // len(present) + (np.arange(len(present)) < len(labels) % len(present))
    drawn = []
    for label, number in zip(present, wanted, strict=True):
        images = np.flatnonzero(labels == label)
        whole = np.tile(images, number // len(images))
        drawn += [whole, rng.choice(images, number % len(images), replace=False)]
    return np.sort(np.concatenate(drawn))
