"""Random changes of whole batches of uint8 images, on the device where they are.

Nothing here takes a step per image or waits for the device. Each function draws the numbers of all
images of a batch, from a :class:`Draws`, and applies those of the images that it is given.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Draws:
    """Random numbers for the images of a batch, which several processes may share.

    Every process draws the numbers of the whole batch and keeps those of its share, so that an
    image gets the same numbers whichever process has it. The same seed gives the same numbers on
    the same kind of device.

    Args:
        seed: whole numbers of 0 or more that seed the numbers, such as seed, epoch and batch.
        device: where the numbers are drawn and used.
        rank: this process's rank. Its images are every ``size``-th of the batch, from ``rank`` on.
        size: number of processes that share the batch.
    """

    def __init__(
        self, seed: Sequence[int], device: torch.device, *, rank: int = 0, size: int = 1
    ) -> None:
        mixed = np.random.SeedSequence(seed).generate_state(1, np.uint64).item()
        self._generator = torch.Generator(device).manual_seed(mixed)
        self._rank, self._size = rank, size

    def integers(self, end: int, count: int) -> Tensor:
        """Draw int64 ``[count]`` from 0 to ``end - 1``."""
        drawn = torch.randint(
            end,
            (count * self._size,),
            generator=self._generator,
            device=self._generator.device,
        )
        return drawn[self._rank :: self._size]


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror some images of a batch horizontally.

    Args:
        images: uint8 ``[N, H, W, 3]``.
        mirrored: bool ``[N]``.

    Returns:
        uint8 ``[N, H, W, 3]``.
    """
    # Bitwise: many times as fast as torch.where on bytes.
    chosen = mirrored.to(torch.uint8).neg()[:, None]
    changed = (images ^ images.flip(2)).flatten(1).bitwise_and_(chosen)
    return changed.view_as(images).bitwise_xor_(images)


def first_mirrored(count: int, seed: int) -> NDArray[np.bool_]:
    """Draw for each image of a split whether alternating flips mirror it in the first epoch.

    Args:
        count: number of images N.
        seed: seed of the draw.

    Returns:
        bool ``[N]``.
    """
    # Four numbers: three seed the draws of an epoch's batch or image.
    return np.random.default_rng((seed, 0, 0, 2)).random(count) < 0.5


def random_crop(images: Tensor, padding: int, fill: Tensor, draws: Draws) -> Tensor:
    """Crop each image at random from a padded copy.

    Args:
        images: uint8 ``[N, H, W, 3]``.
        padding: pixels added on every side before the crop.
        fill: uint8 ``[3]``, colour of the padding.
        draws: random numbers.

    Returns:
        uint8 ``[N, H, W, 3]``.
    """
    n, height, width, channels = images.shape
    high, wide = height + 2 * padding, width + 2 * padding
    padded = fill.repeat(high * wide).repeat(n, 1).view(n, high, wide * channels)
    inner = slice(padding * channels, (padding + width) * channels)
    padded[:, padding : padding + height, inner] = images.flatten(2)
    # A view of all windows, of which indexing copies one of each image.
    windows = padded.as_strided(
        (n, 2 * padding + 1, 2 * padding + 1, height, width * channels),
        (high * wide * channels, wide * channels, channels, wide * channels, 1),
    )
    top, left = (draws.integers(2 * padding + 1, n) for _ in range(2))
    return windows[torch.arange(n, device=images.device), top, left].view_as(images)


def cutout(images: Tensor, side: int, fill: Tensor, draws: Draws) -> Tensor:
    """Cover a square of each image, centred on a random pixel (DeVries and Taylor, 1708.04552).

    Args:
        images: uint8 ``[N, H, W, 3]``.
        side: side of the square, in pixels; the borders of the image clip it.
        fill: uint8 ``[3]``, colour of the square.
        draws: random numbers.

    Returns:
        uint8 ``[N, H, W, 3]``.
    """
    n, height, width, channels = images.shape
    rows, columns = (
        _is_within(draws.integers(length, n), side, length).to(torch.uint8)
        for length in (height, width)
    )
    shown = 1 - rows[:, :, None] * columns.repeat_interleave(channels, 1)[:, None]
    # In bytes, which wrap: x - fill is 0 where the square is, so adding fill gives its colour.
    colour = fill.repeat(width)
    return ((images.flatten(2) - colour) * shown + colour).view_as(images)


def _is_within(centres: Tensor, side: int, length: int) -> Tensor:
    offsets = torch.arange(length, device=centres.device) - (centres - side // 2)[:, None]
    return (offsets >= 0) & (offsets < side)
