"""In which order images are read: shuffled, the same again for the same seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from delugeserve.data.encoded import NEARBY, EncodedImages

# Of W workers each takes every W-th batch. Where W divides this or is a multiple of it, that leads
# each of them to few lanes, or to a single one.
_LANES = 4


class Draw(NamedTuple):
    """One image, to be read in an epoch.

    Attributes:
        epoch: the epoch, counted from 0.
        image: the image's index.
    """

    epoch: int
    image: int


class EpochOrder(Sampler[Draw]):
    """The images of one process in the order of an epoch, counted by ``set_epoch`` from 0.

    In training every process gets equally many images, other ones in other epochs, and up to
    ``num_replicas - 1`` images are left out. In testing every image is read once, by one of them.

    Args:
        images: what there is to read.
        training: shuffle the images.
        batch_size: images in a batch.
        seed: of the order.
        num_replicas: processes that train together.
        rank: which of them this is.
    """

    def __init__(
        self,
        images: EncodedImages,
        *,
        training: bool,
        batch_size: int,
        seed: int,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        self.epoch = 0
        self._starts, self._count = images.starts, len(images)
        self._training, self._batch_size, self._seed = training, batch_size, seed
        self._num_replicas, self._rank = num_replicas, rank

    def set_epoch(self, epoch: int) -> None:
        """Move on to another order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._bounds(self._rank + 1) - self._bounds(self._rank)

    def __iter__(self) -> Iterator[Draw]:
        order = np.arange(self._count)
        mine = slice(self._bounds(self._rank), self._bounds(self._rank + 1))
        if self._training:
            rng = np.random.default_rng((self._seed, self.epoch))
            order = shuffle_groups(self._starts, self._count, rng)
            order[mine] = shuffle_nearby(order[mine], self._batch_size, rng)
        for image in order[mine].tolist():
            yield Draw(self.epoch, image)

    def _bounds(self, rank: int) -> int:
        if self._training:
            return rank * (self._count // self._num_replicas)
        return rank * self._count // self._num_replicas


def shuffle_groups(
    starts: NDArray[np.int64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Shuffle groups of images, and leave the images in a group together.

    Args:
        starts: int64 ``[G]``, the first image of each group.
        count: the number of images.
        rng: source of the randomness.

    Returns:
        int64 ``[count]``.
    """
    place = np.repeat(rng.permutation(len(starts)), np.diff(starts, append=count))
    return np.argsort(place, kind="stable")


def shuffle_nearby(
    order: NDArray[np.int64], batch_size: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Shuffle images with those that are near in an order.

    The order is cut into stretches of about ``NEARBY`` images, each stretch into four lanes, and
    every lane is shuffled. Batches are then taken from the lanes of a stretch in turn, so that of
    four workers each reads the row groups of its own lane and no others.

    Args:
        order: int64 ``[N]``, groups of images one after the other.
        batch_size: images in a batch.
        rng: source of the randomness.

    Returns:
        int64 ``[N]``.
    """
    batches = max(1, NEARBY // (_LANES * batch_size))
    whole = len(order) - len(order) % (_LANES * batches * batch_size)
    lanes = rng.permuted(order[:whole].reshape(-1, batches * batch_size), axis=1)
    in_turn = lanes.reshape(-1, _LANES, batches, batch_size).swapaxes(1, 2)
    return np.concatenate([in_turn.ravel(), rng.permutation(order[whole:])])
