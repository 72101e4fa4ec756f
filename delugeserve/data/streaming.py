"""Batches of images that are decoded and augmented in worker processes as they are needed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from delugeserve.data.encoded import EncodedImages
from delugeserve.data.imagenet import augmented_crop, centre_crop
from delugeserve.data.order import Draw, EpochOrder
from delugeserve.data.unreadable import OnUnreadable, replaced
from delugeserve.errors import DatasetError, TrainingError
from delugeserve.zoo import DatasetSpec
from delugeserve_client.errors import ImageError

# So many unreadable images in a row are no accident.
_TRIES = 100


class Sample(NamedTuple):
    """One image.

    Attributes:
        image: uint8 ``[H, W, 3]``, RGB.
        label: its class.
        unreadable: the names of those in whose place it stands.
    """

    image: Tensor
    label: int
    unreadable: tuple[str, ...]


class StreamedImages(Dataset[Sample]):
    """Images that are decoded when they are asked for.

    What comes out depends on the seed, the epoch and the image alone, and not on which process
    reads it, or what it read before.

    Args:
        images: the encoded images.
        dataset: gives the sizes.
        training: augment the images, instead of cutting out their centres.
        seed: of the augmentation.
        on_unreadable: what becomes of an image that cannot be decoded: ``fail``, or ``skip`` it
            and take the next one that can.
    """

    def __init__(
        self,
        images: EncodedImages,
        dataset: DatasetSpec,
        *,
        training: bool,
        seed: int,
        on_unreadable: OnUnreadable,
    ) -> None:
        self.images = images
        self.dataset = dataset
        self.training = training
        self.seed = seed
        self.on_unreadable = on_unreadable

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> Sample:
        """Decode one image.

        Raises:
            DatasetError: it cannot be, or neither can those that follow.
        """
        unreadable: list[str] = []
        for step in range(min(_TRIES, len(self))):
            index = (draw.image + step) % len(self)
            try:
                image = self._decode(Draw(draw.epoch, index))
                return Sample(image, int(self.images.labels[index]), tuple(unreadable))
            except ImageError as error:
                if self.on_unreadable == "fail":
                    raise DatasetError(error.problem, error.remedy) from error
                unreadable.append(self.images.name(index))
        raise DatasetError(
            f"{unreadable[0]} cannot be read, and neither can the {len(unreadable) - 1} images"
            " after it.",
            "Get the data set again.",
        )

    def __getitems__(self, draws: list[Draw]) -> list[Sample] | DatasetError:
        """Decode a batch, or return what is wrong.

        What a worker raises, PyTorch turns into a RuntimeError; what it returns stays as it is.
        """
        try:
            return [self[draw] for draw in draws]
        except DatasetError as error:
            return error

    def _decode(self, draw: Draw) -> Tensor:
        image, name = self.images[draw.image], self.images.name(draw.image)
        if not self.training:
            return centre_crop(image, name, self.dataset)
        return augmented_crop(image, name, self.dataset, np.random.default_rng((self.seed, *draw)))


def stream_batches(
    images: EncodedImages,
    *,
    training: bool,
    batch_size: int,
    num_workers: int,
    seed: int,
    dataset: DatasetSpec,
    on_unreadable: OnUnreadable,
    num_replicas: int = 1,
    rank: int = 0,
    say: Callable[[str], None] = warnings.warn,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Read images in batches, on and on, an epoch each time it is iterated over.

    The sampler's ``set_epoch`` moves on to the next order and augmentation. Whatever the number of
    workers, the batches are the same.

    Args:
        images: the encoded images.
        training: shuffle and augment them, and leave out the last ones that fill no batch.
        batch_size: images in a batch.
        num_workers: processes that decode; with 0, the one that iterates does it.
        seed: of order and augmentation.
        dataset: gives the sizes.
        on_unreadable: what becomes of an image that cannot be decoded: ``fail``, or ``skip`` it
            and take the next one that can.
        num_replicas: processes that train together.
        rank: which of them this is.
        say: is told at the end of an epoch how many images were skipped, and which.

    Returns:
        Gives uint8 images ``[N, H, W, 3]`` and int64 labels ``[N]``. Iterating raises
        ``DatasetError`` where images cannot be read.
    """
    order = EpochOrder(
        images,
        training=training,
        batch_size=batch_size,
        seed=seed,
        num_replicas=num_replicas,
        rank=rank,
    )
    streamed = StreamedImages(
        images, dataset, training=training, seed=seed, on_unreadable=on_unreadable
    )
    return _Batches(
        streamed,
        say,
        batch_size=batch_size,
        sampler=order,
        drop_last=training and len(order) >= batch_size,
        num_workers=num_workers,
        persistent_workers=training and num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        collate_fn=_collate,
    )


@contextmanager
def lost_workers_named() -> Iterator[None]:
    """Say what became of a worker process that has died.

    PyTorch raises wherever the main process happens to be, not only where it waits for a batch.

    Raises:
        TrainingError: one has died.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition(". ")[0].rstrip(".")
        if not reason.startswith("DataLoader worker"):
            raise
        raise TrainingError(
            f"A process that decodes images has died: {reason}.",
            "Run the same command with --resume, and with more shared memory (a container's"
            " --shm-size=8g) or fewer --workers.",
        ) from error


_Collated = tuple[Tensor, Tensor, list[str]]


class _Batches(DataLoader[Any]):
    """A loader in whose own process the workers' errors are raised, and their losses counted."""

    def __init__(self, dataset: StreamedImages, say: Callable[[str], None], **options: Any) -> None:
        super().__init__(dataset, **options)
        self._say = say

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:  # type: ignore[override]
        unreadable: dict[str, None] = {}
        for number, batch in enumerate(super().__iter__(), 1):
            if isinstance(batch, DatasetError):
                self._iterator = None  # ends the workers, before the error's traceback does
                raise batch
            images, labels, names = batch
            unreadable.update(dict.fromkeys(names))
            # Before the last batch goes out: who knows the length need not ask for one more.
            if number == len(self) and unreadable:
                self._say(replaced(list(unreadable)))
            yield images, labels


def _collate(samples: list[Sample] | DatasetError) -> _Collated | DatasetError:
    if isinstance(samples, DatasetError):
        return samples
    return (
        torch.stack([sample.image for sample in samples]),
        torch.tensor([sample.label for sample in samples]),
        [name for sample in samples for name in sample.unreadable],
    )
