"""Real images to calibrate and to verify an artefact with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from delugeserve.data.datasets import SplitName, load_images
from delugeserve.errors import require
from delugeserve.zoo import DatasetSpec

# Colour photographs that ship inside scikit-image's wheel.
_PHOTOS = ("chelsea.png", "astronaut.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")


def sample_images(
    dataset: DatasetSpec,
    count: int,
    source: str | None = None,
    *,
    split: SplitName = "test",
    seed: int = 0,
) -> tuple[NDArray[np.uint8], str]:
    """Take real images of the network's input size.

    Args:
        dataset: gives the size.
        count: how many at most.
        source: a data set to take images from; None takes random crops of photographs.
        split: of the data set.
        seed: of the crops.

    Returns:
        uint8 ``[K, H, W, 3]`` with K at most ``count``, and what they are.

    Raises:
        DatasetError: the source cannot be read.
        MissingExtraError: there is no source and scikit-image is not installed.
    """
    if source is not None:
        images = load_images(source, split, dataset, limit=count).images
        return images, f"{split} images of {Path(source).name}"
    return _photo_crops(dataset.image_size, count, seed), "crops of photographs"


def default_source(dataset: DatasetSpec, class_names: Sequence[str] | None) -> str | None:
    """The data set that ``DELUGESERVE_DATA`` names, for a network that classifies CIFAR-10.

    Args:
        dataset: the network's.
        class_names: its classes, if it was trained; one of other classes has the same sizes.
    """
    source = os.environ.get("DELUGESERVE_DATA")
    of_cifar10 = dataset.name == "cifar10" and class_names in (None, dataset.class_names)
    return source if source and of_cifar10 else None


def _photo_crops(size: int, count: int, seed: int) -> NDArray[np.uint8]:
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
