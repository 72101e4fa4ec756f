"""The images and the network's answers that an artefact is held to, kept beside it.

With them an artefact can be verified where neither the checkpoint nor torch is at hand: on the
machine that will serve it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from delugeserve.artifacts.manifest import EVIDENCE
from delugeserve.errors import RepositoryError


@dataclass(frozen=True)
class Evidence:
    """What the network itself answers.

    Attributes:
        images: uint8 ``[K, H, W, 3]``.
        logits: the network's in fp32, float32 ``[K, classes]``.
        description: what the images are.
    """

    images: NDArray[np.uint8]
    logits: NDArray[np.float32]
    description: str

    def write(self, folder: Path) -> None:
        """Write ``evidence.npz`` into a folder."""
        # Compressed: of photographs a third is saved, of the test images of CIFAR-10 a quarter.
        np.savez_compressed(folder / EVIDENCE, images=self.images, logits=self.logits)


def read_evidence(folder: Path, description: str) -> Evidence:
    """Read ``evidence.npz`` from a version's folder.

    Raises:
        RepositoryError: it is missing or damaged.
    """
    path = folder / EVIDENCE
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, logits = arrays["images"], arrays["logits"]
    except (OSError, ValueError, KeyError, BadZipFile, EOFError) as error:
        raise RepositoryError(
            f"{path}, which an artefact is verified with, cannot be read.",
            "Export the model again.",
        ) from error
    if images.ndim != 4 or logits.ndim != 2 or len(images) != len(logits):
        raise RepositoryError(
            f"{path} does not hold images and their logits.", "Export the model again."
        )
    return Evidence(images, logits, description)
