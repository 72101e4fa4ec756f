"""Real images to calibrate and verify with: of a data set, or crops of photographs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from delugeserve.data.datasets import SplitName, load_images
from delugeserve.system.imports import require
from delugeserve.verification.evidence import PROBE
from delugeserve.zoo import CIFAR10, Task

# Photographs in scikit-image's wheel that are CC0 or in the public domain, as skimage.data says:
# crops of them are published with every version.
_PHOTOS = ("chelsea.png", "astronaut.png", "coffee.png", "rocket.jpg")


def sample_images(
    task: Task,
    count: int,
    source: str | None = None,
    *,
    split: SplitName = "test",
    seed: int = 0,
) -> tuple[NDArray[np.uint8], str]:
    """Return real images of the network's input size.

    Args:
        task: the network's data set.
        count: most images.
        source: a data set to take images from; None for crops of photographs.
        split: of the data set.
        seed: of the crops.

    Returns:
        uint8 ``[K, H, W, 3]`` with K at most ``count``, and what the images are.

    Raises:
        DatasetError: the data set cannot be read.
        MissingExtraError: scikit-image, which holds the photographs, is not installed.
    """
    if source is not None:
        images = load_images(source, split, task, limit=count).images
        return images, f"{split} images of {Path(source).name}"
    return photo_crops(task.image_size, count, seed), PROBE


def default_source(task: Task) -> str | None:
    """Return the data set in ``DELUGESERVE_DATA``, for a network that classifies CIFAR-10."""
    of_cifar10 = task.class_names == CIFAR10.class_names and task.image_size == CIFAR10.image_size
    return os.environ.get("DELUGESERVE_DATA") or None if of_cifar10 else None


def photo_crops(size: int, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return random square crops of photographs in the public domain.

    Args:
        size: height and width, in pixels.
        count: number of crops.
        seed: of the crops. A larger count continues the same sequence.

    Returns:
        uint8 ``[count, size, size, 3]``.

    Raises:
        MissingExtraError: scikit-image, which holds the photographs, is not installed.
    """
    package = require("skimage", "export")
    folder = Path(str(package.__file__)).parent / "data"
    photos = [Image.open(folder / name).convert("RGB") for name in _PHOTOS]
    rng = np.random.default_rng(seed)
    crops = np.empty((count, size, size, 3), np.uint8)
    for index in range(count):
        photo = photos[index % len(photos)]
        side = int(rng.integers(min(photo.size) // 4, min(photo.size)))
        left = int(rng.integers(0, photo.width - side + 1))
        top = int(rng.integers(0, photo.height - side + 1))
        box = (left, top, left + side, top + side)
        crops[index] = photo.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return crops
