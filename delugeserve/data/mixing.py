"""Mixes of two images and their labels: mixup (1710.09412) and CutMix (1905.04899).

One weight is drawn for all images of a batch, and each image is mixed with the one before it: the
batches are shuffled. The weight is drawn on the CPU, so nothing here waits for the device.
"""

from __future__ import annotations

import math

import numpy as np
import torch.nn.functional as F
from torch import Tensor


def mixup(
    images: Tensor, labels: Tensor, num_classes: int, alpha: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Replace each image and its label by a weighted mean of two.

    Args:
        images: float ``[N, C, H, W]``, in any memory format.
        labels: int64 ``[N]``.
        num_classes: number of classes K.
        alpha: both parameters of the Beta distribution of the weight.
        rng: random number generator.

    Returns:
        The images, and probabilities of the classes, float32 ``[N, K]``.
    """
    share = rng.beta(alpha, alpha)
    rows = images.permute(0, 2, 3, 1)  # rolled in channels-last memory, which stays as it is
    mixed = rows.roll(1, 0).lerp_(rows, share).permute(0, 3, 1, 2)
    return mixed, _mix_labels(labels, num_classes, share)


def cutmix(
    images: Tensor, labels: Tensor, num_classes: int, alpha: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Replace a rectangle of each image by another image's, and mix the labels by area.

    Args:
        images: float ``[N, C, H, W]``, in any memory format.
        labels: int64 ``[N]``.
        num_classes: number of classes K.
        alpha: both parameters of the Beta distribution of the area that stays.
        rng: random number generator.

    Returns:
        The images, and probabilities of the classes, float32 ``[N, K]``.
    """
    height, width = images.shape[2:]
    side = math.sqrt(1 - rng.beta(alpha, alpha))
    (top, bottom), (left, right) = (
        _stretch(length, side, rng.random()) for length in (height, width)
    )
    mixed = images.clone()
    part = images[:, :, top:bottom, left:right]
    mixed[:, :, top:bottom, left:right] = part.roll(1, 0)
    covered = (bottom - top) * (right - left) / (height * width)
    return mixed, _mix_labels(labels, num_classes, 1 - covered)


def _stretch(length: int, share: float, centre: float) -> tuple[int, int]:
    """Return first and last pixel (exclusive) of a share of a side, which the border clips."""
    middle, half = int(centre * length), int(share * length) // 2
    return max(0, middle - half), min(length, middle + half)


def _mix_labels(labels: Tensor, num_classes: int, share: float) -> Tensor:
    own = F.one_hot(labels, num_classes).float()
    return own.roll(1, 0).lerp_(own, share)
