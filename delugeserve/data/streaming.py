"""Batches of images that worker processes decode and augment on demand."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from delugeserve.data.augmentation import first_mirrored
from delugeserve.data.encoded import EncodedImages
from delugeserve.data.imagenet import CROP_AREA, augmented_crop, centre_crop
from delugeserve.data.options import Flip, Sampling
from delugeserve.data.order import Draw, EpochOrder
from delugeserve.data.unreadable import OnUnreadable, describe_replaced
from delugeserve.errors import DatasetError, TrainingError, UnreadableImageError
from delugeserve.zoo import Task
from delugeserve_client.errors import ImageError

_log = logging.getLogger(__name__)

# With this many unreadable images in a row the data set is damaged as a whole.
_TRIES = 100


class Sample(NamedTuple):
    """One decoded image.

    Attributes:
        image: uint8 ``[H, W, 3]``, RGB.
        label: index of its class.
        unreadable: names of the unreadable images that it replaces.
    """

    image: Tensor
    label: int
    unreadable: tuple[str, ...]


class StreamedImages(Dataset[Sample]):
    """Images that are decoded on access.

    A sample depends on the seed, the epoch and the image alone, not on the process that reads it or
    on what it read before.

    Args:
        images: the encoded images.
        task: gives the sizes.
        training: augment the images; otherwise crop their centres.
        seed: seed of the augmentation.
        on_unreadable: whether an image that cannot be decoded is an error, or is replaced by the
            next one that can be decoded.
        flip: which images are mirrored in training.
        crop_area: smallest area of a random crop in training, over that of the image.
    """

    def __init__(
        self,
        images: EncodedImages,
        task: Task,
        *,
        training: bool,
        seed: int,
        on_unreadable: OnUnreadable,
        flip: Flip = "random",
        crop_area: float = CROP_AREA,
    ) -> None:
        self.images = images
        self.task = task
        self.training = training
        self.seed = seed
        self.on_unreadable = on_unreadable
        self.flip = flip
        self.crop_area = crop_area
        self._first_mirrored = first_mirrored(len(images), seed) if flip == "alternating" else None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> Sample:
        """Decode one image.

        Raises:
            UnreadableImageError: the image cannot be decoded, nor can its replacements.
            DatasetError: the file that holds the image is damaged.
        """
        unreadable: list[str] = []
        for step in range(min(_TRIES, len(self))):
            index = (draw.image + step) % len(self)
            try:
                image = self._decode(draw._replace(image=index))
                return Sample(image, int(self.images.labels[index]), tuple(unreadable))
            except ImageError as error:
                name = self.images.name(index)
                if self.on_unreadable == "fail":
                    raise UnreadableImageError(error.problem, error.remedy, name=name) from error
                unreadable.append(name)
        raise UnreadableImageError(
            f"{unreadable[0]} and the {len(unreadable) - 1} images after it cannot be decoded.",
            "Download the data set again.",
            name=unreadable[0],
            found=len(unreadable),
        )

    def __getitems__(self, draws: list[Draw]) -> list[Sample] | DatasetError:
        """Decode a batch, or return the error.

        PyTorch turns an exception of a worker into a RuntimeError, but hands over what it returns.
        """
        try:
            return [self[draw] for draw in draws]
        except DatasetError as error:
            return error

    def _decode(self, draw: Draw) -> Tensor:
        image, name = self.images[draw.image], self.images.name(draw.image)
        if not self.training:
            return centre_crop(image, name, self.task)
        rng = np.random.default_rng((self.seed, *draw))
        mirror = self._is_mirrored(draw)
        return augmented_crop(image, name, self.task, rng, mirror=mirror, crop_area=self.crop_area)

    def _is_mirrored(self, draw: Draw) -> bool | None:
        """Whether an image is mirrored in an epoch; None if that is to be drawn."""
        if self._first_mirrored is not None:
            return bool(self._first_mirrored[draw.image]) ^ bool((draw.epoch + draw.repetition) % 2)
        return False if self.flip == "none" else None


def stream_batches(
    images: EncodedImages,
    *,
    training: bool,
    batch_size: int,
    num_workers: int,
    seed: int,
    task: Task,
    on_unreadable: OnUnreadable,
    flip: Flip = "random",
    crop_area: float = CROP_AREA,
    sampling: Sampling = "natural",
    num_replicas: int = 1,
    rank: int = 0,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Create a loader of batches; each iteration over it is an epoch.

    The sampler's ``set_epoch`` selects the order and the augmentation of an epoch. The batches do
    not depend on the number of workers. Images that were replaced are logged, once an epoch.

    Args:
        images: the encoded images.
        training: shuffle and augment the images, and drop the last, incomplete batch.
        batch_size: images per batch.
        num_workers: number of decoding processes; with 0, the iterating process decodes.
        seed: seed of order and augmentation.
        task: gives the sizes.
        on_unreadable: whether an image that cannot be decoded is an error, or is replaced by the
            next one that can be decoded.
        flip: which images are mirrored in training.
        crop_area: smallest area of a random crop in training, over that of the image.
        sampling: which images an epoch of training has.
        num_replicas: number of processes that train together.
        rank: rank of this process among them.

    Returns:
        A loader of uint8 images ``[N, H, W, 3]`` and int64 labels ``[N]``. Iterating over it raises
        ``DatasetError`` if images cannot be read.
    """
    order = EpochOrder(
        images,
        training=training,
        batch_size=batch_size,
        seed=seed,
        sampling=sampling,
        num_replicas=num_replicas,
        rank=rank,
    )
    streamed = StreamedImages(
        images,
        task,
        training=training,
        seed=seed,
        on_unreadable=on_unreadable,
        flip=flip,
        crop_area=crop_area,
    )
    return _Batches(
        streamed,
        batch_size=batch_size,
        sampler=order,
        drop_last=training and len(order) >= batch_size,
        num_workers=num_workers,
        persistent_workers=training and num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        collate_fn=_collate,
    )


@contextmanager
def explain_lost_workers() -> Iterator[None]:
    """Turn PyTorch's error about a worker process that died into a :class:`TrainingError`.

    PyTorch raises at any point of the main process, not only where it waits for a batch, so the
    body should be the whole training.

    Raises:
        TrainingError: a worker process died.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition(". ")[0].rstrip(".")
        if not reason.startswith("DataLoader worker"):
            raise
        raise TrainingError(
            f"A process that decodes images died: {reason}.",
            "Resume the run with fewer --workers, or give the container more"
            " shared memory (docker run --shm-size=8g).",
        ) from error


_Collated = tuple[Tensor, Tensor, list[str]]


class _Batches(DataLoader[Any]):
    """A loader that raises the errors and logs the replaced images of its workers."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:  # type: ignore[override]
        unreadable: dict[str, None] = {}
        for number, batch in enumerate(super().__iter__(), 1):
            if isinstance(batch, DatasetError):
                self._iterator = None  # ends the workers now, not when the traceback is freed
                raise batch
            images, labels, names = batch
            unreadable.update(dict.fromkeys(names))
            # Before the last batch is yielded: a caller that knows the length stops after it.
            if number == len(self) and unreadable:
                _log.warning("%s", describe_replaced(list(unreadable)))
            yield images, labels


def _collate(samples: list[Sample] | DatasetError) -> _Collated | DatasetError:
    if isinstance(samples, DatasetError):
        return samples
    return (
        torch.stack([sample.image for sample in samples]),
        torch.tensor([sample.label for sample in samples]),
        [name for sample in samples for name in sample.unreadable],
    )
