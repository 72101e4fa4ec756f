"""From an encoded photograph to the network's input, as ImageNet is trained on and tested on.

The recipe is that of fb.resnet.torch, which the paper's authors trained with: a random part of the
image at a random aspect ratio, its brightness, contrast and saturation changed, light of a random
colour added, and half of the images mirrored. Tests are on centre crops.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageStat
from torch import Tensor

from delugeserve.zoo import DatasetSpec
from delugeserve_client.preprocessing import Preprocessing, decode

Box = tuple[int, int, int, int]
"""Left, upper, right and lower edge in pixels, the latter two exclusive."""

_AREA = (0.08, 1.0)  # of the crop, as a part of the image's
_RATIO = (3 / 4, 4 / 3)  # of the crop's width to its height
_TRIES = 10

_JITTER = 0.4  # the most that brightness, contrast and saturation are raised or lowered by
_GREY = np.array([0.299, 0.587, 0.114])  # of red, green and blue (ITU-R BT.601)

# The principal components of the pixels of ImageNet, in [0, 1]: Krizhevsky et al., "ImageNet
# Classification with Deep Convolutional Neural Networks", 2012, section 4.1, in the figures of
# fb.resnet.torch (datasets/imagenet.lua). Each column is an eigenvector.
_LIGHTING = 0.1
_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
_EIGENVECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)


def centre_crop(image: bytes | Path, source: str, dataset: DatasetSpec) -> Tensor:
    """Decode an image, scale it and cut out its centre, as the client does it for a server.

    The client leaves the scaling to Pillow, on which half of the time would be spent here. This
    differs by less than one level of 255 in the mean over an image, and mostly by none.

    Args:
        image: the content or the path of an image file.
        source: the name to give the image in errors.
        dataset: gives the sizes.

    Returns:
        uint8 ``[H, W, 3]``, RGB.

    Raises:
        delugeserve_client.errors.ImageError: it cannot be read.
    """
    size, resize_size = dataset.image_size, dataset.resize_size
    rgb = decode(image, source, Preprocessing(size, size, resize_size).scale)
    (width, across), (height, down) = (
        central_stretch(length, min(rgb.size), size, resize_size) for length in rgb.size
    )
    left, upper = (rgb.width - width) // 2, (rgb.height - height) // 2
    resized = _resize(rgb.crop((left, upper, left + width, upper + height)), across, down)
    left, upper = (across - size) // 2, (down - size) // 2
    return resized[upper : upper + size, left : left + size].contiguous()


def central_stretch(length: int, short: int, size: int, resize_size: int) -> tuple[int, int]:
    """Find whole pixels around an image's centre that scale to whole pixels around the crop's.

    Args:
        length: a side of the image, in pixels.
        short: its shorter side.
        size: the side of the crop.
        resize_size: what the shorter side is scaled to.

    Returns:
        How many of the side's pixels to scale, as even or odd as it is, and to how many: those of
        the crop and some around it, which the filter looks at. Of all such pairs they come
        closest to the scale, and their centre is the image's to the fraction of a pixel.
    """
    scale = short / resize_size
    fewest = size + min(8, resize_size - size)
    pairs = []
    for after in range(resize_size, fewest - 1, -2):
        before = length - 2 * round((length - after * scale) / 2)
        pairs.append((before or 2, after))  # 0 where a side of the image is a single pixel
    return min(pairs, key=lambda pair: abs(pair[0] / pair[1] - scale))


def augmented_crop(
    image: bytes | Path, source: str, dataset: DatasetSpec, rng: np.random.Generator
) -> Tensor:
    """Decode an image and cut out a part of it, with other colours and perhaps mirrored.

    Args:
        image: the content or the path of an image file.
        source: the name to give the image in errors.
        dataset: gives the size.
        rng: source of the randomness.

    Returns:
        uint8 ``[H, W, 3]``, RGB.

    Raises:
        delugeserve_client.errors.ImageError: it cannot be read.
    """
    size = dataset.image_size
    numbers = rng.random((_TRIES, 4))

    def scale(width: int, height: int) -> float:
        left, upper, right, lower = random_box(width, height, numbers)
        return size / min(right - left, lower - upper)

    rgb = decode(image, source, scale)
    # A JPEG may have been decoded at a half of its size: there the same numbers give the same part.
    part = _resize(rgb.crop(random_box(*rgb.size, numbers)), size, size)
    crop = Image.fromarray(part.numpy())
    grey = ImageStat.Stat(crop.convert("L")).mean[0]
    crop = crop.convert("RGB", tuple(colour_change(grey, rng).ravel().tolist()))
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(crop))


def random_box(width: int, height: int, numbers: NDArray[np.float64]) -> Box:
    """Choose a part of an image, by its area and aspect ratio.

    Args:
        width: width of the image, in pixels.
        height: height of the image, in pixels.
        numbers: float64 ``[tries, 4]`` in [0, 1): what decides area, ratio and place of a box.

    Returns:
        The first box that fits into the image, or else the largest square in the centre.
    """
    for area, ratio, x, y in numbers.tolist():
        pixels = width * height * (_AREA[0] + (_AREA[1] - _AREA[0]) * area)
        aspect = _RATIO[0] * (_RATIO[1] / _RATIO[0]) ** ratio
        across, down = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 1 <= across <= width and 1 <= down <= height:
            left, upper = int(x * (width - across + 1)), int(y * (height - down + 1))
            return (left, upper, left + across, upper + down)
    square = min(width, height)
    left, upper = (width - square) // 2, (height - square) // 2
    return (left, upper, left + square, upper + square)


def colour_change(grey: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Change brightness, contrast and saturation in random order, then add coloured light.

    All four are affine, so that their sum is one matrix and costs one pass over the pixels.

    Args:
        grey: the mean of the image in grey, in 0..255.
        rng: source of the randomness.

    Returns:
        float64 ``[3, 4]``: what to multiply (red, green, blue, 1) by, in 0..255. Nothing is cut
        off at black or white in between.
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
    """Scale an image by an antialiased bicubic filter.

    The filter is Pillow's, which the client uses, in PyTorch's vector instructions: four times as
    fast, and now and then a level of 255 apart.

    Returns:
        uint8 ``[height, width, 3]``.
    """
    pixels = torch.from_numpy(np.array(image))[None].permute(0, 3, 1, 2)
    resized = F.interpolate(pixels, (height, width), mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0)
