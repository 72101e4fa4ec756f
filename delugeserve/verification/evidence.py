"""The images and the network's logits that an artefact is compared with, and what is kept of them.

``evidence.npz`` lies next to the artefact, so that it can be verified on the machine that will
serve it, with neither the checkpoint nor torch. It holds two sets:

- The probe: a few crops of photographs in the public domain, with the network's logits. It is
  always kept, so any server can prove itself on it.
- The data set that the version was verified on: the SHA-256 of each image and the network's
  logits. The images themselves are kept only if the user asked for it, since a model may be
  published where its data may not. ``delugeserve verify --data`` brings them again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from delugeserve.artifacts.manifest import EVIDENCE
from delugeserve.artifacts.records import EvidenceRecord
from delugeserve.errors import DatasetError, RepositoryError

PROBE = "crops of photographs"

_RESTORE = "Copy the version again from where it was exported, or export the model again."


@dataclass(frozen=True)
class Evidence:
    """Images with the network's logits.

    Attributes:
        images: uint8 ``[K, H, W, 3]``.
        logits: of the network in fp32, float32 ``[K, classes]``.
        description: number and source of the images.
    """

    images: NDArray[np.uint8]
    logits: NDArray[np.float32]
    description: str


@dataclass(frozen=True)
class DataEvidence:
    """The network's logits on a data set whose images need not be kept.

    Attributes:
        digests: SHA-256 of each image, uint8 ``[K, 32]``.
        logits: of the network in fp32, float32 ``[K, classes]``.
        images: uint8 ``[K, H, W, 3]``; None if they are not kept.
        source: what the images are, such as ``test images of cifar10``.
    """

    digests: NDArray[np.uint8]
    logits: NDArray[np.float32]
    images: NDArray[np.uint8] | None
    source: str

    def find(self, images: NDArray[np.uint8]) -> Evidence | None:
        """Return those of the given images that are in the data set; None if none is.

        Args:
            images: uint8 ``[N, H, W, 3]``, in any order.
        """
        given = {digest.tobytes(): row for row, digest in enumerate(hash_images(images))}
        rows = [given.get(digest.tobytes()) for digest in self.digests]
        found = [place for place, row in enumerate(rows) if row is not None]
        if not found:
            return None
        count = str(len(rows)) if len(found) == len(rows) else f"{len(found)} of {len(rows)}"
        chosen = images[[row for row in rows if row is not None]]
        return Evidence(chosen, self.logits[found], f"{count} {self.source}")


@dataclass(frozen=True)
class StoredEvidence:
    """The content of ``evidence.npz``.

    Attributes:
        probe: the crops of photographs.
        data: the data set; None if the version was verified on photographs only.
    """

    probe: Evidence
    data: DataEvidence | None = None

    @property
    def record(self) -> EvidenceRecord:
        """What is kept, for the manifest."""
        data = self.data
        return EvidenceRecord(
            probe_images=len(self.probe.images),
            data=data.source if data else None,
            data_images=len(data.digests) if data else 0,
            images_kept=data is not None and data.images is not None,
        )

    def select(self, images: NDArray[np.uint8] | None = None) -> Evidence:
        """Return what an artefact can be compared with.

        Args:
            images: images of the data set, uint8 ``[N, H, W, 3]``; None for those that are kept.

        Returns:
            The probe, and the images of the data set that are kept or given.

        Raises:
            DatasetError: none of the given images is in the data set.
        """
        if images is None:
            images = self.data.images if self.data else None
            if images is None:
                return self.probe
        found = self.data.find(images) if self.data else None
        if found is None:
            known = f"{len(self.data.digests)} {self.data.source}" if self.data else PROBE
            raise DatasetError(
                f"None of the {len(images)} images given is among the images that this version was "
                f"verified on ({known}).",
                "Use the --data that the version was exported with, or leave --data out."
                if self.data
                else "Leave --data out, or export the model again with --data.",
            )
        return join(found, self.probe)

    def write(self, folder: Path) -> None:
        """Write ``evidence.npz`` into a version's folder."""
        arrays: dict[str, Any] = {"images": self.probe.images, "logits": self.probe.logits}
        if self.data:
            arrays |= {"data_sha256": self.data.digests, "data_logits": self.data.logits}
            if self.data.images is not None:
                arrays["data_images"] = self.data.images
        np.savez_compressed(folder / EVIDENCE, **arrays)


def hash_images(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the SHA-256 of each image's pixels.

    Args:
        images: uint8 ``[N, H, W, 3]``.

    Returns:
        uint8 ``[N, 32]``.
    """
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)


def join(first: Evidence, second: Evidence) -> Evidence:
    """Return two sets of images as one."""
    return Evidence(
        np.concatenate([first.images, second.images]),
        np.concatenate([first.logits, second.logits]),
        f"{first.description} and {second.description}",
    )


def read_evidence(folder: Path, record: EvidenceRecord) -> StoredEvidence:
    """Read ``evidence.npz`` from a version's folder.

    Args:
        folder: the version's folder.
        record: what the manifest says of the file.

    Raises:
        RepositoryError: the file is missing or damaged.
    """
    path = folder / EVIDENCE
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        probe = Evidence(arrays["images"], arrays["logits"], f"{len(arrays['images'])} {PROBE}")
        data = None
        if record.data is not None:
            data = DataEvidence(
                arrays["data_sha256"], arrays["data_logits"], arrays.get("data_images"), record.data
            )
    except (OSError, ValueError, KeyError, BadZipFile, EOFError) as error:
        raise RepositoryError(
            f"{path} cannot be read; the version cannot be verified without it.", _RESTORE
        ) from error
    stored = StoredEvidence(probe, data)
    if not _is_whole(stored) or stored.record != record:
        raise RepositoryError(f"{path} does not hold what the manifest lists.", _RESTORE)
    return stored


def _is_whole(stored: StoredEvidence) -> bool:
    probe, data = stored.probe, stored.data
    if probe.images.ndim != 4 or probe.logits.ndim != 2 or len(probe.images) != len(probe.logits):
        return False
    if data is None:
        return True
    count = len(data.digests)
    return (
        data.digests.shape == (count, 32)
        and data.logits.shape == (count, probe.logits.shape[1])
        and (data.images is None or len(data.images) == count)
    )
