"""The order in which images are read: shuffled, and reproducible from seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from delugeserve.data.balance import balanced_draw
from delugeserve.data.encoded import NEARBY, EncodedImages
from delugeserve.data.options import Sampling

# Each of W workers takes every W-th batch. If W divides this number or is a multiple of it, each
# worker reads few lanes, or a single one.
_LANES = 4


class Draw(NamedTuple):
    """An image to read in an epoch.

    Attributes:
        epoch: index of the epoch, from 0.
        image: index of the image.
        repetition: how often the epoch had the image before.
    """

    epoch: int
    image: int
    repetition: int = 0


class EpochOrder(Sampler[Draw]):
    """A sampler of one process's images in the order of an epoch, which ``set_epoch`` selects.

    In training all processes get the same number of images, different ones in each epoch, and up to
    ``num_replicas - 1`` of the epoch's images are left out. In testing each image is read once, by
    one process.

    Args:
        images: the images.
        training: shuffle the images.
        batch_size: images per batch.
        seed: seed of the order.
        sampling: which images an epoch of training has.
        num_replicas: number of processes that train together.
        rank: rank of this process among them.
    """

    def __init__(
        self,
        images: EncodedImages,
        *,
        training: bool,
        batch_size: int,
        seed: int,
        sampling: Sampling = "natural",
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        self.epoch = 0
        self._starts, self._count = images.starts, len(images)
        self._labels = images.labels if sampling == "balanced" else None
        self._training, self._batch_size, self._seed = training, batch_size, seed
        self._num_replicas, self._rank = num_replicas, rank

    def set_epoch(self, epoch: int) -> None:
        """Select the order of an epoch, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._bounds(self._rank + 1) - self._bounds(self._rank)

    def __iter__(self) -> Iterator[Draw]:
        order = images = np.arange(self._count)
        mine = slice(self._bounds(self._rank), self._bounds(self._rank + 1))
        if self._training:
            rng = np.random.default_rng((self._seed, self.epoch))
            starts = self._starts
            if self._labels is not None:
                images = balanced_draw(self._labels, rng)
                starts = np.searchsorted(images, starts)
            order = shuffle_groups(starts, self._count, rng)
            order[mine] = shuffle_nearby(order[mine], self._batch_size, rng)
        order = order[mine]
        repetitions = order - np.searchsorted(images, images[order])
        for image, repetition in zip(images[order].tolist(), repetitions.tolist(), strict=True):
            yield Draw(self.epoch, image, repetition)

    def _bounds(self, rank: int) -> int:
        if self._training:
            return rank * (self._count // self._num_replicas)
        return rank * self._count // self._num_replicas


def shuffle_groups(
    starts: NDArray[np.int64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Shuffle groups of images; the images of a group stay together and in order.

    Args:
        starts: int64 ``[G]``, the first image of each group.
        count: number of images.
        rng: random number generator.

    Returns:
        Indices of the images, int64 ``[count]``.
    """
    place = np.repeat(rng.permutation(len(starts)), np.diff(starts, append=count))
    return np.argsort(place, kind="stable")


def shuffle_nearby(
    order: NDArray[np.int64], batch_size: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Shuffle images among their neighbours in an order.

    The order is cut into stretches of about ``NEARBY`` images, each stretch into four lanes, and
    each lane is shuffled. Batches are then taken from the lanes of a stretch in turn, so that each
    of four workers reads the row groups of one lane only.

    Args:
        order: int64 ``[N]``, groups of images one after the other.
        batch_size: images per batch.
        rng: random number generator.

    Returns:
        Indices of the images, int64 ``[N]``.
    """
    batches = max(1, NEARBY // (_LANES * batch_size))
    whole = len(order) - len(order) % (_LANES * batches * batch_size)
    lanes = rng.permuted(order[:whole].reshape(-1, batches * batch_size), axis=1)
    in_turn = lanes.reshape(-1, _LANES, batches, batch_size).swapaxes(1, 2)
    return np.concatenate([in_turn.ravel(), rng.permutation(order[whole:])])
