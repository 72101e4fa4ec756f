"""Decoding of ImageNet's photographs: augmented crops for training, centre crops for testing.

The recipe is that of fb.resnet.torch, with which the paper's authors trained: a random resized crop
(area and aspect ratio), colour jitter (brightness, contrast and saturation in random order), PCA
lighting noise and a horizontal flip.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageStat
from torch import Tensor

from delugeserve.data.encoded import Encoded
from delugeserve.zoo import Task
from delugeserve_client.preprocessing import Preprocessing, decode

Box = tuple[int, int, int, int]
"""Left, upper, right and lower edge in pixels; right and lower are exclusive."""

CROP_AREA = 0.08
"""Smallest area of a random crop, over that of the image, of the ImageNet recipe."""

_RATIO = (3 / 4, 4 / 3)  # width over height of the crop
_TRIES = 10

_JITTER = 0.4  # largest relative change of brightness, contrast and saturation
_GREY = np.array([0.299, 0.587, 0.114])  # weights of red, green and blue (ITU-R BT.601)

# Principal components of ImageNet's pixels in [0, 1] (Krizhevsky et al., "ImageNet Classification
# with Deep Convolutional Neural Networks", 2012, section 4.1), with the values of fb.resnet.torch
# (datasets/imagenet.lua). Each column is an eigenvector.
_LIGHTING = 0.1
_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
_EIGENVECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)


def centre_crop(image: Encoded, source: str, task: Task) -> Tensor:
    """Decode an image, resize it and crop its centre, as the client does.

    The client resizes with Pillow, which would take half of the time here. The results differ by
    less than one level of 255 in the mean over an image; most pixels do not differ.

    Args:
        image: content or path of an image file, or pixels.
        source: the image's name in errors.
        task: gives the sizes.

    Returns:
        uint8 ``[H, W, 3]``, RGB.

    Raises:
        delugeserve_client.errors.ImageError: the image cannot be decoded.
    """
    size, resize_size = task.image_size, task.resize_size
    rgb = decode(image, source, Preprocessing(size, size, resize_size).scale)
    (width, across), (height, down) = (
        central_stretch(length, min(rgb.size), size, resize_size) for length in rgb.size
    )
    left, upper = (rgb.width - width) // 2, (rgb.height - height) // 2
    resized = _resize(rgb.crop((left, upper, left + width, upper + height)), across, down)
    left, upper = (across - size) // 2, (down - size) // 2
    return resized[upper : upper + size, left : left + size].contiguous()


def central_stretch(length: int, short: int, size: int, resize_size: int) -> tuple[int, int]:
    """Find a stretch of whole pixels in the centre that is resized to whole pixels.

    Args:
        length: a side of the image, in pixels.
        short: the shorter side of the image, in pixels.
        size: side of the crop, in pixels.
        resize_size: length that the shorter side is resized to, in pixels.

    Returns:
        The length of the stretch before and after resizing, in pixels. The stretch covers the crop
        and some pixels around it, which the filter reads; it has the parity of ``length``, so that
        it is centred exactly. Of all such pairs it comes closest to the wanted scale.
    """
    scale = short / resize_size
    fewest = size + min(8, resize_size - size)
    pairs = []
    for after in range(resize_size, fewest - 1, -2):
        before = length - 2 * round((length - after * scale) / 2)
        pairs.append((before or 2, after))  # before is 0 if the image is a single pixel wide
    return min(pairs, key=lambda pair: abs(pair[0] / pair[1] - scale))


def augmented_crop(
    image: Encoded,
    source: str,
    task: Task,
    rng: np.random.Generator,
    *,
    mirror: bool | None = None,
    crop_area: float = CROP_AREA,
) -> Tensor:
    """Decode an image and augment it: random resized crop, colour jitter, lighting and flip.

    Args:
        image: content or path of an image file, or pixels.
        source: the image's name in errors.
        task: gives the size of the crop.
        rng: random number generator.
        mirror: whether the crop is flipped; None to flip it with probability 0.5.
        crop_area: smallest area of the crop, over that of the image.

    Returns:
        uint8 ``[H, W, 3]``, RGB.

    Raises:
        delugeserve_client.errors.ImageError: the image cannot be decoded.
    """
    size = task.image_size
    numbers = rng.random((_TRIES, 5))

    def scale(width: int, height: int) -> float:
        left, upper, right, lower = random_box(width, height, numbers, crop_area)
        return size / min(right - left, lower - upper)

    rgb = decode(image, source, scale)
    # A JPEG may have been decoded at half of its size; the same numbers select the same part.
    part = _resize(rgb.crop(random_box(*rgb.size, numbers, crop_area)), size, size)
    crop = Image.fromarray(part.numpy())
    grey = ImageStat.Stat(crop.convert("L")).mean[0]
    crop = crop.convert("RGB", tuple(colour_change(grey, rng).ravel().tolist()))
    if rng.random() < 0.5 if mirror is None else mirror:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(crop))


def random_box(
    width: int, height: int, numbers: NDArray[np.float64], crop_area: float = CROP_AREA
) -> Box:
    """Choose a random part of an image by its area and aspect ratio.

    Args:
        width: width of the image, in pixels.
        height: height of the image, in pixels.
        numbers: random numbers, float64 ``[tries, 5]`` in [0, 1): area, aspect ratio, whether it
            is turned, and horizontal and vertical position of each candidate.
        crop_area: smallest area of the part, over that of the image.

    Returns:
        The first candidate that fits into the image, else the largest square in the centre.
    """
    for area, ratio, turn, x, y in numbers.tolist():
        pixels = width * height * (crop_area + (1 - crop_area) * area)
        aspect = _RATIO[0] + (_RATIO[1] - _RATIO[0]) * ratio
        if turn < 0.5:
            aspect = 1 / aspect
        across, down = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 1 <= across <= width and 1 <= down <= height:
            left, upper = int(x * (width - across + 1)), int(y * (height - down + 1))
            return (left, upper, left + across, upper + down)
    square = min(width, height)
    left, upper = (width - square) // 2, (height - square) // 2
    return (left, upper, left + square, upper + square)


def colour_change(grey: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a random colour jitter, followed by PCA lighting noise, as one affine map.

    Changes of brightness, contrast and saturation, in random order, and the added light are affine
    each, so that all of them take one pass over the pixels. Pixels are not clipped in between.

    Args:
        grey: mean grey level of the image, in 0..255.
        rng: random number generator.

    Returns:
        float64 ``[3, 4]``, to be multiplied by (red, green, blue, 1) in 0..255.
    """
    change = np.eye(3, 4)
    factors = 1 + rng.uniform(-_JITTER, _JITTER, 3)
    for step in rng.permutation(3):
        factor = factors[step]
        if step == 0:  # brightness: towards black
            change *= factor
            grey *= factor
        elif step == 1:  # contrast: towards the image's mean
            change *= factor
            change[:, 3] += (1 - factor) * grey
        else:  # saturation: towards each pixel's own grey
            change = factor * change + (1 - factor) * (_GREY @ change)
    light = _EIGENVECTORS @ (_EIGENVALUES * rng.normal(0, _LIGHTING, 3))
    change[:, 3] += 255 * light
    return change


def _resize(image: Image.Image, width: int, height: int) -> Tensor:
    """Resize an image with an antialiased bicubic filter.

    This is the filter of Pillow and of the client, vectorised by PyTorch: four times as fast, with
    occasional differences of one level of 255.

    Returns:
        uint8 ``[height, width, 3]``.
    """
    pixels = torch.from_numpy(np.array(image))[None].permute(0, 3, 1, 2)
    resized = F.interpolate(pixels, (height, width), mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0)
