"""Pictures of noise in class folders: each class has a colour that a small network learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def write_pictures(
    folder: Path, colours: Mapping[str, Sequence[int]], *, count: int, seed: int = 0
) -> Path:
    """Write ``count`` JPEGs of each class, of sizes from 40 to 89 pixels.

    Args:
        folder: gets one folder per class.
        colours: the RGB colour of each class, by its name.
        count: number of pictures of a class.
        seed: of the noise and the sizes.
    """
    rng = np.random.default_rng(seed)
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            size = (*rng.integers(40, 90, 2), 3)
            pixels = rng.normal(colour, 25, size).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.jpg")
    return folder
