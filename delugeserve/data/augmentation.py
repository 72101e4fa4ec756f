"""Random flips and crops of whole uint8 batches, in one gather."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Bring pixels to zero mean and unit deviation.

    Args:
        images: uint8 ``[N, H, W, 3]``.
        mean: float32 ``[3]``, of pixels in [0, 1].
        std: float32 ``[3]``, likewise.

    Returns:
        float32 ``[N, 3, H, W]`` in channels-last memory, without a copy for the permutation.
    """
    scaled = (images.float() - 255 * mean) / (255 * std)
    return scaled.permute(0, 3, 1, 2)


def random_flip_crop(
    images: Tensor, padding: int, fill: Tensor, generator: torch.Generator
) -> Tensor:
    """Crop each image at random from a padded copy, and mirror half of them.

    Args:
        images: uint8 ``[N, H, W, 3]``.
        padding: pixels added on every side before the crop.
        fill: uint8 ``[3]``, the colour of the padding.
        generator: source of the randomness, so that a step can be repeated exactly.

    Returns:
        uint8 ``[N, H, W, 3]``.
    """
    n, height, width, _ = images.shape
    padded = F.pad(images, (0, 0, padding, padding, padding, padding))
    border = padded.new_ones(padded.shape[1:3], dtype=torch.bool)
    border[padding : padding + height, padding : padding + width] = False
    padded[:, border] = fill

    top, left = torch.randint(0, 2 * padding + 1, (2, n, 1), generator=generator)
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    batch = torch.arange(n)
    return padded[batch[:, None, None], rows[:, :, None], columns[:, None, :]]
