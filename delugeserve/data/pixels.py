"""Mean and standard deviation of the pixels of training images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from delugeserve.data.decoding import decode_all
from delugeserve.data.encoded import EncodedImages
from delugeserve.errors import DatasetError
from delugeserve.system.progress import NO_PROGRESS, Progress

_SMALLEST = 1e-3  # images of one colour would be divided by zero


@dataclass(frozen=True)
class PixelStatistics:
    """Statistics of the pixels of some images.

    Attributes:
        mean: per-channel mean of RGB in [0, 1].
        std: per-channel standard deviation of RGB in [0, 1].
        images: number of images that were measured.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    images: int


def measure_pixels(
    images: EncodedImages,
    image_size: int,
    resize_size: int,
    *,
    sample: int = 2000,
    seed: int = 0,
    progress: Progress = NO_PROGRESS,
) -> PixelStatistics:
    """Measure mean and standard deviation over a random sample of images.

    Images are resized and cropped first, as the network receives them. Those that cannot be
    decoded are left out. The result is rounded to four digits.

    Args:
        images: the training images.
        image_size: height and width of the network's input, in pixels.
        resize_size: length of the shorter side before the centre crop, in pixels.
        sample: the most images to measure.
        seed: selects the sample.
        progress: receives the number of images measured.

    Raises:
        DatasetError: none of the images can be decoded.
    """
    rng = np.random.default_rng(seed)
    count = min(sample, len(images))
    chosen = images.select(np.sort(rng.permutation(len(images))[:count]))
    decoded = decode_all(chosen, image_size, resize_size, "skip", progress)
    if not len(decoded.rows):
        raise DatasetError(
            f"None of {count:,} images of {images.source} can be decoded.",
            "Give images in a known format, such as JPEG or PNG.",
            path=images.source,
            found=count,
        )
    levels = decoded.images.reshape(-1, 3)
    # Counts of the 256 levels are exact, whatever the number of pixels.
    counts = np.stack([np.bincount(levels[:, channel], minlength=256) for channel in range(3)])
    scale = np.arange(256) / 255
    mean = counts @ scale / len(levels)
    std = np.sqrt(counts @ scale**2 / len(levels) - mean**2)
    return PixelStatistics(_rounded(mean), _rounded(np.maximum(std, _SMALLEST)), len(decoded.rows))


def _rounded(values: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = (round(float(value), 4) for value in values)
    return red, green, blue
