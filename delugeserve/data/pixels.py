"""Mean and standard deviation of the pixels of training images."""

from __future__ import annotations

from dataclasses import dataclass

from delugeserve.data.encoded import EncodedImages
from delugeserve.system.progress import NO_PROGRESS, Progress


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
    raise NotImplementedError
