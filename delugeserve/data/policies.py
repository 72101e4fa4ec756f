"""RandAugment (1909.13719) and TrivialAugment (2103.10158) for whole batches of uint8 images.

The operations and their ranges are those of torchvision's ``RandAugment`` (two operations,
magnitude 9 of 30) and ``TrivialAugmentWide``, which change one image at a time. Here each operation
changes all images that it was drawn for at once, on the device. The draws are made on the CPU, so
that the sizes of these groups are known without waiting for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from delugeserve.data.options import Policy


@dataclass(frozen=True)
class _Ranges:
    """Number of operations per image, their magnitude, and what magnitude 1 means.

    Attributes:
        operations: number of operations for each image.
        magnitude: in [0, 1]; None to draw one for each image.
        shear: pixels per pixel.
        shift: pixels; None for 150/331 of the width or height.
        angle: degrees.
        colour: change of brightness, saturation, contrast or sharpness, relative to 1.
        bits: bits of a colour that posterising removes.
    """

    operations: int
    magnitude: float | None
    shear: float
    shift: float | None
    angle: float
    colour: float
    bits: int


_POLICIES: dict[Policy, _Ranges] = {
    "randaugment": _Ranges(2, 9 / 30, 0.3, None, 30, 0.9, 4),
    "trivial": _Ranges(1, None, 0.99, 32, 135, 0.99, 6),
}
_SHIFT = 150 / 331


def apply_policy(
    images: Tensor,
    policy: Policy,
    fill: Tensor,
    rng: np.random.Generator,
    *,
    rank: int = 0,
    size: int = 1,
) -> Tensor:
    """Change each image by operations drawn at random.

    Args:
        images: uint8 ``[N, H, W, 3]``, on any device.
        policy: how many operations are drawn, and how strong they are.
        fill: uint8 ``[3]``, colour of what lies outside of an image.
        rng: random number generator.
        rank: this process's rank. The images are every ``size``-th of a batch, from ``rank`` on,
            and get the operations that they would get in the whole batch.
        size: number of processes that share the batch.

    Returns:
        uint8 ``[N, H, W, 3]``.
    """
    if policy == "none":
        return images
    ranges = _POLICIES[policy]
    # Planes of one channel each: operations on the last dimension are slow on three bytes.
    planes, count = images.permute(0, 3, 1, 2).contiguous(), len(images) * size
    for _ in range(ranges.operations):
        # One more than there are operations: no change.
        drawn = rng.integers(len(_OPERATIONS) + 1, size=count)[rank::size]
        magnitudes = rng.random(count)[rank::size]
        if ranges.magnitude is not None:
            magnitudes = np.full_like(magnitudes, ranges.magnitude)
        signs = rng.choice([-1, 1], count)[rank::size]
        for number, operation in enumerate(_OPERATIONS):
            chosen = np.flatnonzero(drawn == number)
            if not len(chosen):
                continue
            where, magnitude, sign = (
                torch.from_numpy(values).to(planes.device, non_blocking=True)
                for values in (
                    chosen,
                    magnitudes[chosen].astype(np.float32),
                    signs[chosen].astype(np.float32),
                )
            )
            group = _Group(planes[where], magnitude, sign, fill, ranges)
            planes[where] = operation(group)
    return planes.permute(0, 2, 3, 1).contiguous()


@dataclass(frozen=True)
class _Group:
    """The images that an operation was drawn for.

    Attributes:
        planes: uint8 ``[N, 3, H, W]``.
        magnitude: float32 ``[N]``, in [0, 1].
        sign: float32 ``[N]``, -1 or 1.
        fill: uint8 ``[3]``.
        ranges: what a magnitude means.
    """

    planes: Tensor
    magnitude: Tensor
    sign: Tensor
    fill: Tensor
    ranges: _Ranges

    @property
    def change(self) -> Tensor:
        """Signed magnitude, float32 ``[N]``."""
        return self.sign * self.magnitude

    @property
    def factor(self) -> Tensor:
        """Factor of a change of colour, float32 ``[N, 1, 1, 1]``."""
        return (1 + self.change * self.ranges.colour)[:, None, None, None]


# Geometry: for each pixel of the result, the coordinates of its source.


def _shear_x(group: _Group) -> Tensor:
    return _warp(group, lambda x, y: (x + _each(group.change * group.ranges.shear) * y, y))


def _shear_y(group: _Group) -> Tensor:
    return _warp(group, lambda x, y: (x, y + _each(group.change * group.ranges.shear) * x))


def _shift_x(group: _Group) -> Tensor:
    return _warp(group, lambda x, y: (x - _each(_shift(group, 3)), y))


def _shift_y(group: _Group) -> Tensor:
    return _warp(group, lambda x, y: (x, y - _each(_shift(group, 2))))


def _rotate(group: _Group) -> Tensor:
    angle = _each(group.change * math.radians(group.ranges.angle))
    height, width = group.planes.shape[2:]
    cos, sin, right, down = angle.cos(), angle.sin(), (width - 1) / 2, (height - 1) / 2
    return _warp(
        group,
        lambda x, y: (
            (x - right) * cos - (y - down) * sin + right,
            (x - right) * sin + (y - down) * cos + down,
        ),
    )


def _each(values: Tensor) -> Tensor:
    return values[:, None, None]


def _shift(group: _Group, dim: int) -> Tensor:
    farthest = group.ranges.shift
    return group.change * (group.planes.shape[dim] * _SHIFT if farthest is None else farthest)


def _warp(group: _Group, source: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    """Move pixels; ``source`` maps coordinates of the result to those of the pixels moved there."""
    planes = group.planes
    n, _, height, width = planes.shape
    x, y = (torch.arange(side, device=planes.device).float() for side in (width, height))
    x, y = (coordinate.round() for coordinate in source(x[None, None], y[None, :, None]))
    outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
    # In floats, which are exact here, and faster than whole numbers.
    place = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    index = place.expand(n, height, width).flatten(1).long()[:, None].expand(-1, 3, -1)
    moved = planes.flatten(2).gather(2, index).view_as(planes)
    mask = outside.to(torch.uint8).neg()[:, None]
    return moved ^ ((moved ^ group.fill[:, None, None]) & mask)


# Colours


def _brightness(group: _Group) -> Tensor:
    return _to_bytes(group.planes * group.factor)


def _contrast(group: _Group) -> Tensor:
    return _blend(_grey(group.planes).mean((1, 2, 3), keepdim=True).round(), group)


def _saturation(group: _Group) -> Tensor:
    return _blend(_grey(group.planes), group)


def _sharpness(group: _Group) -> Tensor:
    pixels = group.planes.float()
    inner = pixels[:, :, 1:-1, 1:-1]
    # Pillow's filter: weight 5 in the middle and 1 around it; the border stays.
    across = pixels[..., :-2] + pixels[..., 1:-1] + pixels[..., 2:]
    around = across[:, :, :-2] + across[:, :, 1:-1] + across[:, :, 2:]
    inner.copy_(((around + 4 * inner) / 13).round())
    return _blend(pixels, group)


def _posterise(group: _Group) -> Tensor:
    removed = (group.magnitude * group.ranges.bits).round().to(torch.uint8)[:, None, None, None]
    return (group.planes >> removed) << removed


def _solarise(group: _Group) -> Tensor:
    threshold = (255 * (1 - group.magnitude)).ceil()[:, None, None, None]
    return group.planes ^ (group.planes >= threshold).to(torch.uint8).neg()


def _autocontrast(group: _Group) -> Tensor:
    low, high = (
        extreme[..., None].float()
        for extreme in (group.planes.amin((2, 3)), group.planes.amax((2, 3)))
    )
    levels = torch.arange(256, device=low.device)
    # The summand is for products that just miss a whole number.
    stretched = (levels - low) * (255 / (high - low).clamp(min=1)) + 1e-4
    # A channel of one level stays as it is.
    return _look_up(torch.where(high > low, _to_bytes(stretched), levels), group)


def _equalise(group: _Group) -> Tensor:
    pixels = group.planes.flatten(2).long()
    histogram = torch.zeros(*pixels.shape[:2], 256, dtype=torch.int64, device=pixels.device)
    histogram.scatter_add_(2, pixels, torch.ones_like(pixels))
    # As Pillow: the pixels of the brightest level do not count.
    brightest = histogram.gather(2, pixels.amax(2, keepdim=True))
    step = (pixels.shape[2] - brightest) // 255
    below = histogram.cumsum(2) - histogram
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    return _look_up(torch.where(step > 0, table, torch.arange(256, device=step.device)), group)


def _look_up(table: Tensor, group: _Group) -> Tensor:
    """Replace each level by the one in its channel's table, ``[N, 3, 256]``."""
    pixels = group.planes.flatten(2).long()
    return table.to(torch.uint8).gather(2, pixels).view_as(group.planes)


def _grey(planes: Tensor) -> Tensor:
    """Return the luma (ITU-R BT.601) as whole numbers, float32 ``[N, 1, H, W]``."""
    red, green, blue = (planes[:, channel : channel + 1] for channel in range(3))
    return (0.299 * red + 0.587 * green + 0.114 * blue).round()


def _blend(other: Tensor, group: _Group) -> Tensor:
    return _to_bytes(other + group.factor * (group.planes - other))


def _to_bytes(pixels: Tensor) -> Tensor:
    return pixels.clamp(0, 255).to(torch.uint8)


_OPERATIONS: tuple[Callable[[_Group], Tensor], ...] = (
    _shear_x,
    _shear_y,
    _shift_x,
    _shift_y,
    _rotate,
    _brightness,
    _contrast,
    _saturation,
    _sharpness,
    _posterise,
    _solarise,
    _autocontrast,
    _equalise,
)
