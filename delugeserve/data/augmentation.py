"""Random flips, crops and cutouts of uint8 batches."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def random_flip_crop(
    images: Tensor,
    padding: int,
    fill: Tensor,
    rng: np.random.Generator,
    *,
    rank: int = 0,
    size: int = 1,
) -> Tensor:
    """Crop each image at random from a padded copy, and mirror half of the images.

    Args:
        images: uint8 ``[N, H, W, 3]``, on any device.
        padding: pixels added on every side before the crop.
        fill: uint8 ``[3]``, colour of the padding.
        rng: random number generator; the same state gives the same crops on any device.
        rank: this process's rank. The images are every ``size``-th of a batch, from ``rank`` on,
            and get the crops that they would get in the whole batch.
        size: number of processes that share the batch.

    Returns:
        uint8 ``[N, H, W, 3]``.
    """
    n, height, width, _ = images.shape
    device = images.device
    padded = F.pad(images, (0, 0, padding, padding, padding, padding))
    border = padded.new_ones(padded.shape[1:3], dtype=torch.bool)
    border[padding : padding + height, padding : padding + width] = False
    padded[:, border] = fill.to(device)

    offsets = rng.integers(0, 2 * padding + 1, (2, n * size, 1))[:, rank::size]
    mirror = rng.random((n * size, 1))[rank::size] < 0.5
    top, left = torch.from_numpy(offsets).to(device)
    rows = top + torch.arange(height, device=device)
    columns = left + torch.arange(width, device=device)
    columns = torch.where(torch.from_numpy(mirror).to(device), columns.flip(1), columns)
    batch = torch.arange(n, device=device)
    return padded[batch[:, None, None], rows[:, :, None], columns[:, None, :]]


def cutout(
    images: Tensor,
    side: int,
    fill: Tensor,
    rng: np.random.Generator,
    *,
    rank: int = 0,
    size: int = 1,
) -> Tensor:
    """Cover a square of each image, centred on a random pixel (DeVries and Taylor, 1708.04552).

    Args:
        images: uint8 ``[N, H, W, 3]``, on any device.
        side: side of the square, in pixels; the borders of the image clip it.
        fill: uint8 ``[3]``, colour of the square.
        rng: random number generator.
        rank: see :func:`random_flip_crop`.
        size: see :func:`random_flip_crop`.

    Returns:
        uint8 ``[N, H, W, 3]``.
    """
    n, *lengths, _ = images.shape
    rows, columns = (
        _is_within(torch.from_numpy(rng.integers(0, length, n * size)[rank::size]), side, length)
        for length in lengths
    )
    covered = (rows[:, :, None] & columns[:, None, :]).to(images.device)
    return torch.where(covered[..., None], fill.to(images.device), images)


def _is_within(centres: Tensor, side: int, length: int) -> Tensor:
    offsets = torch.arange(length) - (centres - side // 2)[:, None]
    return (offsets >= 0) & (offsets < side)
