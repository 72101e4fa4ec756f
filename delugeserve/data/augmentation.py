"""Random flips, crops and cutouts of whole uint8 batches."""

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
    """Crop each image at random from a padded copy, and mirror half of them.

    Args:
        images: uint8 ``[N, H, W, 3]``, on any device.
        padding: pixels added on every side before the crop.
        fill: uint8 ``[3]``, the colour of the padding.
        rng: source of the randomness, so that a step can be repeated exactly, on any device.
        rank: the images are every ``size``-th of a batch, from this one on. They come out as they
            would if the whole batch had been given.
        size: see ``rank``.

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
    """Cover a square of each image, centred on any of its pixels (DeVries, Taylor: 1708.04552).

    Args:
        images: uint8 ``[N, H, W, 3]``, on any device.
        side: of the square, in pixels. Where it reaches over a border, less of it is seen.
        fill: uint8 ``[3]``, the square's colour.
        rng: source of the randomness.
        rank: see :func:`random_flip_crop`.
        size: likewise.

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
