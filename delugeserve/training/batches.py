"""Training and test batches, the same for any number of processes that share them.

Small images are kept in memory, and gathered and augmented in whole batches. Large ones are decoded
and augmented by worker processes as they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from delugeserve.data.balance import balanced_draw
from delugeserve.data.datasets import LabelledImages, index_images, load_images
from delugeserve.data.encoded import EncodedImages
from delugeserve.data.splits import SplitName
from delugeserve.data.streaming import stream_batches
from delugeserve.data.unreadable import OnUnreadable
from delugeserve.errors import UsageError
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve.training.config import RunConfig
from delugeserve.training.distributed import World
from delugeserve.training.recipes import Recipe
from delugeserve.zoo import Task

Batch = tuple[Tensor, ...]
"""uint8 images ``[N, H, W, 3]``, int64 labels ``[N]``, and in training, of images in memory, their
indices in the split, int64 ``[N]``."""

Images = LabelledImages | EncodedImages
"""One split, in memory or on disk."""


@dataclass(frozen=True)
class Reading:
    """How images are read; without effect on the result if all of them can be decoded.

    Attributes:
        workers: number of processes that decode large images, for each process that trains.
        on_unreadable: what to do with an image that cannot be decoded: ``fail``, or ``skip`` it. A
            large one is then replaced by the next one that can be decoded.
    """

    workers: int = 0
    on_unreadable: OnUnreadable = "fail"


_TEST_BATCH = 250
_CPU = torch.device("cpu")
_GPU_PART = 0.25  # of a GPU's free memory that the images of one split may take


def read_split(
    source: str,
    split: SplitName,
    task: Task,
    *,
    limit: int | None = None,
    reading: Reading | None = None,
    progress: Progress = NO_PROGRESS,
) -> Images:
    """Read the images of one split, or list them if they are large.

    Args:
        source: the data set's path or name.
        split: which split.
        task: the images' size and classes.
        limit: maximum number of images; None for all.
        reading: how they are read; None for the defaults.
        progress: receives the number of images read.

    Raises:
        DatasetError: the source does not exist, or does not hold such images.
    """
    if not task.fits_memory:
        return index_images(source, split, task, limit=limit, progress=progress)
    on_unreadable = (reading or Reading()).on_unreadable
    return load_images(
        source, split, task, limit=limit, on_unreadable=on_unreadable, progress=progress
    )


def share_of(batch_size: int, world: World, accumulate: int) -> int:
    """Return the number of images that one process takes at a time.

    Args:
        batch_size: number of images of one optimiser step.
        world: the processes that share them.
        accumulate: number of batches whose gradients are added up to a step.

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
            f"Use a --batch-size that is a multiple of {parts}, such as "
            f"{max(1, round(batch_size / parts)) * parts}.",
        )
    return batch_size // parts


def training_batches(
    images: Images,
    task: Task,
    config: RunConfig,
    world: World,
    reading: Reading,
    device: torch.device = _CPU,
) -> DataLoader[Batch]:
    """Return this process's batches, shuffled anew in each epoch.

    Args:
        images: the training images.
        task: their size and classes.
        config: gives the batch size, how a batch is divided, and the seed.
        world: the processes that share the batches.
        reading: how large images are read.
        device: where the network is trained. Images in memory are kept there if they fit.

    Raises:
        UsageError: a step's images cannot be divided equally, or there are too few.
    """
    batch_size, accumulate, seed = config.recipe.batch_size, config.accumulate, config.seed
    share = share_of(batch_size, world, accumulate)
    if isinstance(images, EncodedImages):
        # A process without images would end without an error.
        _check_count(len(images), world.size * accumulate)
        # The last step of an epoch may add up fewer batches than the others.
        return _stream(images, task, share, seed, world, reading, config.recipe)
    order = EpochBatches(
        len(images),
        batch_size,
        seed=seed,
        world=world,
        accumulate=accumulate,
        labels=images.labels if config.recipe.sampling == "balanced" else None,
        partial=config.recipe.partial_batch,
        device=keep_on(images, device),
    )
    numbers = torch.arange(len(images))
    return DataLoader(_tensors(images, order.device, numbers), sampler=order, batch_size=None)


def test_batches(
    images: Images,
    task: Task,
    world: World,
    reading: Reading,
    device: torch.device = _CPU,  # noqa: PT028  not a test
) -> DataLoader[Batch]:
    """Return this process's part of the test images, in order.

    Args:
        images: the test images.
        task: their size and classes.
        world: the processes that share them.
        reading: how large images are read.
        device: where the network is tested. Images in memory are kept there if they fit.

    Raises:
        UsageError: there are fewer images than processes.
    """
    if len(images) < world.size:
        raise UsageError(
            f"{len(images)} test images are too few for {world.size} processes.",
            f"Start {len(images)} processes or fewer, or add test images.",
        )
    if isinstance(images, EncodedImages):
        return _stream(images, task, _TEST_BATCH, 0, world, reading)
    first, end = (len(images) * rank // world.size for rank in (world.rank, world.rank + 1))
    starts = range(first, end, _TEST_BATCH)
    device = keep_on(images, device)
    batches = [
        torch.arange(start, min(start + _TEST_BATCH, end), device=device) for start in starts
    ]
    return DataLoader(_tensors(images, device), sampler=batches, batch_size=None)


def keep_on(images: LabelledImages, device: torch.device) -> torch.device:
    """Return the device to keep images in memory on: the GPU, or the CPU if they take too much.

    On a GPU, a batch is then one gather in its memory instead of a copy from the CPU's, which
    small networks would wait for.

    Args:
        images: the images.
        device: where the network is.
    """
    if device.type != "cuda":
        return _CPU
    free, _ = torch.cuda.mem_get_info(device)
    return device if images.images.nbytes <= _GPU_PART * free else _CPU


class EpochBatches(Sampler[Tensor]):
    """Indices of one process's batches, int64, in the order of an epoch, which Lightning sets.

    The order depends on seed and epoch alone, so that a resumed run repeats it. Each optimiser step
    takes the next ``batch_size`` images, and every process its share of them. The last images that
    do not fill a step are left out, or are a smaller step.

    Args:
        count: number of images.
        batch_size: number of images of one optimiser step; all of them, if they are fewer.
        seed: seed of the order.
        world: the processes that share the batches.
        accumulate: number of batches whose gradients are added up to a step.
        labels: int64 ``[count]``: an epoch has equally many images of each class; None to have each
            image once.
        partial: whether the last images are a smaller step. It has as many images as can be shared.
        device: of the indices.

    Raises:
        UsageError: there are too few images to share.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        seed: int,
        world: World,
        accumulate: int = 1,
        labels: NDArray[np.int64] | None = None,
        partial: bool = False,
        device: torch.device = _CPU,
    ) -> None:
        parts = world.size * accumulate
        _check_count(count, parts)
        step = min(batch_size, count - count % parts)
        self.epoch = 0
        self.device = device
        self._count, self._seed, self._world = count, seed, world
        self._labels = labels
        rest = count % step // parts * parts if partial else 0
        whole = count // step
        # The number of images in each batch, of all processes together.
        self._batches = [step // accumulate] * (whole * accumulate)
        self._batches += [rest // accumulate] * (accumulate if rest else 0)

    def set_epoch(self, epoch: int) -> None:
        """Change to the order of another epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Tensor]:
        rng = np.random.default_rng((self._seed, self.epoch))
        drawn = self._count if self._labels is None else balanced_draw(self._labels, rng)
        order = rng.permutation(drawn)
        # One copy for the whole epoch: each would make a GPU wait.
        indices = torch.from_numpy(order[: sum(self._batches)]).to(self.device)
        for batch in torch.split(indices, self._batches):
            yield batch[self._world.rank :: self._world.size]


def _check_count(count: int, parts: int) -> None:
    if count < parts:
        raise UsageError(
            f"{count} training images are too few: a step is divided into {parts} parts.",
            "Add images, start fewer processes, or use a smaller --accumulate.",
        )


def _stream(
    images: EncodedImages,
    task: Task,
    batch_size: int,
    seed: int,
    world: World,
    reading: Reading,
    recipe: Recipe | None = None,
) -> DataLoader[Batch]:
    """Return batches of images that are read as needed; the recipe is None for testing."""
    return stream_batches(
        images,
        training=recipe is not None,
        batch_size=batch_size,
        num_workers=reading.workers,
        seed=seed,
        task=task,
        on_unreadable=reading.on_unreadable,
        flip=recipe.flip if recipe else "none",
        crop_area=recipe.crop_area if recipe else 1.0,
        sampling=recipe.sampling if recipe else "natural",
        num_replicas=world.size,
        rank=world.rank,
    )


def _tensors(images: LabelledImages, device: torch.device, *more: Tensor) -> Dataset[Batch]:
    # Indexed with whole batches of indices: one gather, no worker processes.
    columns = (torch.from_numpy(images.images), torch.from_numpy(images.labels), *more)
    tensors: Any = TensorDataset(*(column.to(device) for column in columns))
    return cast("Dataset[Batch]", tensors)
