"""Batches to train and to test on, the same whatever the number of processes that share them.

Small images lie in memory, and whole batches of them are gathered and augmented at once. Large ones
are decoded and augmented by worker processes as they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from delugeserve.data.augmentation import cutout, random_flip_crop
from delugeserve.data.datasets import LabelledImages, index_images, load_images
from delugeserve.data.encoded import EncodedImages
from delugeserve.data.splits import SplitName
from delugeserve.data.streaming import stream_batches
from delugeserve.data.unreadable import OnUnreadable
from delugeserve.errors import UsageError
from delugeserve.training.config import RunConfig
from delugeserve.training.distributed import World
from delugeserve.training.recipes import Recipe
from delugeserve.zoo import DatasetSpec

Batch = tuple[Tensor, Tensor]
"""uint8 images ``[N, H, W, 3]`` and int64 labels ``[N]``."""

Images = LabelledImages | EncodedImages
"""One split, in memory or on the disk."""

Augment = Callable[[Tensor, int, int], Tensor]
"""Maps uint8 images ``[N, H, W, 3]``, the epoch and the batch's number in it to such images."""


@dataclass(frozen=True)
class Reading:
    """How images are read. If all of them can be, it changes nothing of what comes out.

    Attributes:
        workers: processes that decode large ones, for each process that trains.
        on_unreadable: what becomes of an image that cannot be decoded: ``fail``, or ``skip`` it,
            for which a large one is replaced by the next one that can.
    """

    workers: int = 0
    on_unreadable: OnUnreadable = "fail"


_TEST_BATCH = 250


def read_split(
    source: str,
    split: SplitName,
    dataset: DatasetSpec,
    *,
    limit: int | None = None,
    reading: Reading | None = None,
) -> Images:
    """Read the images of one split, or find them if they are large.

    Args:
        source: the data set.
        split: which split.
        dataset: what the images are of.
        limit: at most so many images.
        reading: how they are read; None for the defaults.

    Raises:
        DatasetError: there is no such source, or it does not hold what it should.
    """
    if not dataset.fits_memory:
        return index_images(source, split, dataset, limit=limit)
    on_unreadable = (reading or Reading()).on_unreadable
    return load_images(source, split, dataset, limit=limit, on_unreadable=on_unreadable)


def share_of(batch_size: int, world: World, accumulate: int) -> int:
    """How many images one process takes at a time.

    Args:
        batch_size: images of one optimiser step.
        world: the processes that share them.
        accumulate: batches whose gradients are added up to a step.

    Raises:
        UsageError: a step's images cannot be divided equally.
    """
    parts = world.size * accumulate
    if batch_size % parts:
        divided = " x ".join(
            f"{number} {what}"
            for number, what in ((world.size, "processes"), (accumulate, "accumulated batches"))
            if number > 1
        )
        raise UsageError(
            f"A batch of {batch_size} images cannot be divided equally: {divided}.",
            f"Choose a --batch-size that {parts} divides, such as "
            f"{max(1, round(batch_size / parts)) * parts}.",
        )
    return batch_size // parts


def training_batches(
    images: Images,
    dataset: DatasetSpec,
    config: RunConfig,
    world: World,
    reading: Reading,
) -> DataLoader[Batch]:
    """Make this process's batches, shuffled anew in each epoch.

    Args:
        images: the training images.
        dataset: what they are of.
        config: gives the images of an optimiser step, how they are divided, and the seed.
        world: the processes that share the batches.
        reading: how large images are read.

    Raises:
        UsageError: a step's images cannot be divided equally, or there are too few.
    """
    batch_size, accumulate, seed = config.recipe.batch_size, config.accumulate, config.seed
    share = share_of(batch_size, world, accumulate)
    if isinstance(images, EncodedImages):
        # A process without images would have nothing to train, and end well.
        _check_count(len(images), world.size * accumulate)
        # The last step of an epoch may add up fewer batches than the others.
        return _stream(images, dataset, share, seed, world, reading, training=True)
    order = EpochBatches(len(images), batch_size, seed=seed, world=world, accumulate=accumulate)
    return DataLoader(_tensors(images), sampler=order, batch_size=None)


def test_batches(
    images: Images,
    dataset: DatasetSpec,
    world: World,
    reading: Reading,
) -> DataLoader[Batch]:
    """Make this process's part of the test images, in order; for arguments see above.

    Raises:
        UsageError: there are fewer images than processes.
    """
    if len(images) < world.size:
        raise UsageError(
            f"{len(images)} test images are too few for {world.size} processes.",
            "Start fewer processes, or give more images.",
        )
    if isinstance(images, EncodedImages):
        return _stream(images, dataset, _TEST_BATCH, 0, world, reading, training=False)
    first, end = (len(images) * rank // world.size for rank in (world.rank, world.rank + 1))
    starts = range(first, end, _TEST_BATCH)
    batches = [list(range(start, min(start + _TEST_BATCH, end))) for start in starts]
    return DataLoader(_tensors(images), sampler=batches, batch_size=None)


def augmentation(dataset: DatasetSpec, recipe: Recipe, seed: int, world: World) -> Augment:
    """Flip, crop and cover this process's share of a batch as if it had all of it to itself."""
    fill = torch.tensor([round(255 * mean) for mean in dataset.mean], dtype=torch.uint8)

    def augment(images: Tensor, epoch: int, number: int) -> Tensor:
        rng = np.random.default_rng((seed, epoch, number))
        share = {"rank": world.rank, "size": world.size}
        images = random_flip_crop(images, recipe.crop_padding, fill, rng, **share)
        return cutout(images, recipe.cutout, fill, rng, **share) if recipe.cutout else images

    return augment


class EpochBatches(Sampler[list[int]]):
    """Indices of one process's batches, in the order of an epoch, which Lightning sets.

    The order depends on seed and epoch alone, so that a resumed run sees the same again. Each
    optimiser step takes the next ``batch_size`` images, and every process its share of them; the
    last images that fill no step are left out.

    Args:
        count: how many images there are.
        batch_size: images of one optimiser step; all of them, if they are fewer.
        seed: of the order.
        world: the processes that share the batches.
        accumulate: batches whose gradients are added up to a step.

    Raises:
        UsageError: there are too few images to share.
    """

    def __init__(
        self, count: int, batch_size: int, *, seed: int, world: World, accumulate: int = 1
    ) -> None:
        parts = world.size * accumulate
        _check_count(count, parts)
        step = min(batch_size, count - count % parts)
        self.epoch = 0
        self._count, self._seed, self._world = count, seed, world
        self._batch = step // accumulate
        self._batches = count // step * accumulate

    def set_epoch(self, epoch: int) -> None:
        """Move on to another order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self._seed, self.epoch)).permutation(self._count)
        for batch in order[: self._batches * self._batch].reshape(self._batches, self._batch):
            yield batch[self._world.rank :: self._world.size].tolist()


def _check_count(count: int, parts: int) -> None:
    if count < parts:
        raise UsageError(
            f"{count} training images are too few: a step is divided into {parts} parts.",
            "Give more images, or start fewer processes.",
        )


def _stream(
    images: EncodedImages,
    dataset: DatasetSpec,
    batch_size: int,
    seed: int,
    world: World,
    reading: Reading,
    *,
    training: bool,
) -> DataLoader[Batch]:
    return stream_batches(
        images,
        training=training,
        batch_size=batch_size,
        num_workers=reading.workers,
        seed=seed,
        dataset=dataset,
        on_unreadable=reading.on_unreadable,
        num_replicas=world.size,
        rank=world.rank,
    )


def _tensors(images: LabelledImages) -> Dataset[Batch]:
    # Indexed with whole batches of indices: one gather, no worker processes.
    tensors: Any = TensorDataset(torch.from_numpy(images.images), torch.from_numpy(images.labels))
    return cast("Dataset[Batch]", tensors)
