"""The images that an export is verified on, and the network's logits on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from delugeserve.data import datasets
from delugeserve.networks.classifier import network_classifier
from delugeserve.verification.evidence import (
    PROBE,
    DataEvidence,
    Evidence,
    StoredEvidence,
    hash_images,
    join,
)
from delugeserve_export.plan import ExportPlan
from delugeserve_export.samples import photo_crops
from delugeserve_export.source import Source

_SMALL, _LARGE = 16, 8
"""Images of the probe: fewer of those that take more bytes."""


@dataclass(frozen=True)
class ReferenceImages:
    """What an export is verified on.

    Attributes:
        photos: crops of photographs, uint8 ``[K, H, W, 3]``; the first ``probe`` are kept.
        probe: number of crops to keep.
        data: test images of the data set, uint8 ``[N, H, W, 3]``; None without one.
    """

    photos: NDArray[np.uint8]
    probe: int
    data: NDArray[np.uint8] | None

    @property
    def all(self) -> NDArray[np.uint8]:
        """The images of the data set, then the crops."""
        return self.photos if self.data is None else np.concatenate([self.data, self.photos])


def load_images(plan: ExportPlan) -> ReferenceImages:
    """Load the images that an export is verified on.

    Raises:
        DatasetError: the data set cannot be read.
        MissingExtraError: scikit-image, which holds the photographs, is not installed.
    """
    task = plan.spec.task
    probe = _SMALL if task.fits_memory else _LARGE
    if plan.data is None:
        number = max(plan.num_images, probe)
        return ReferenceImages(photo_crops(task.image_size, number), probe, None)
    loaded = datasets.load_images(plan.data, "test", task, limit=plan.num_images)
    return ReferenceImages(photo_crops(task.image_size, probe), probe, loaded.images)


def compute_reference(
    plan: ExportPlan, source: Source, images: ReferenceImages
) -> tuple[Evidence, StoredEvidence]:
    """Compute the network's logits.

    Returns:
        All images with their logits, to verify the artefact on; and what is kept of them.
    """
    classify = network_classifier(source.network, plan.spec.task)
    photos = _evidence(images.photos, classify(images.photos))
    probe = _evidence(photos.images[: images.probe], photos.logits[: images.probe])
    if images.data is None or plan.data is None:
        return photos, StoredEvidence(probe)
    logits = classify(images.data)
    name = f"test images of {Path(plan.data).name}"
    data = DataEvidence(
        hash_images(images.data), logits, images.data if plan.keep_evidence else None, name
    )
    on_data = Evidence(images.data, logits, f"{len(logits)} {name}")
    return join(on_data, photos), StoredEvidence(probe, data)


def _evidence(photos: NDArray[np.uint8], logits: NDArray[np.float32]) -> Evidence:
    return Evidence(photos, logits, f"{len(photos)} {PROBE}")
