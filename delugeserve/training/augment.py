"""What a recipe changes in a training batch, on the device, reproducible from seed and epoch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from delugeserve.data.augmentation import Draws, cutout, first_mirrored, flip, random_crop
from delugeserve.data.mixing import cutmix, mixup
from delugeserve.training.distributed import World
from delugeserve.training.recipes import Recipe
from delugeserve.zoo import Task


class Augment:
    """Flips, crops and covers images in memory: a process's share of a batch as in the whole batch.

    Args:
        task: gives the mean colour, with which images are padded and covered.
        recipe: which changes are made.
        seed: seed of the random numbers, together with epoch and batch.
        world: the processes that share the batches.
        count: number of images in the split.
    """

    def __init__(self, task: Task, recipe: Recipe, seed: int, world: World, count: int) -> None:
        self._recipe, self._seed, self._world = recipe, seed, world
        self._fill = torch.tensor([round(255 * mean) for mean in task.mean], dtype=torch.uint8)
        self._first = torch.from_numpy(first_mirrored(count, seed))

    def __call__(self, images: Tensor, indices: Tensor, epoch: int, number: int) -> Tensor:
        """Augment one batch.

        Args:
            images: uint8 ``[N, H, W, 3]``, on any device.
            indices: the images' indices in the split, int64 ``[N]``, on the same device.
            epoch: index of the epoch, from 0.
            number: index of the batch in the epoch.

        Returns:
            uint8 ``[N, H, W, 3]``.
        """
        recipe, world, device = self._recipe, self._world, images.device
        self._fill, self._first = self._fill.to(device), self._first.to(device)
        draws = Draws((self._seed, epoch, number), device, rank=world.rank, size=world.size)
        if recipe.flip == "random":
            images = flip(images, draws.integers(2, len(images)).bool())
        elif recipe.flip == "alternating":
            images = flip(images, self._first[indices] ^ bool(epoch % 2))
        if recipe.crop_padding:
            images = random_crop(images, recipe.crop_padding, self._fill, draws)
        return cutout(images, recipe.cutout, self._fill, draws) if recipe.cutout else images


class Mix:
    """Mixes each image of a batch, and its label, with another one: mixup or CutMix.

    Processes that share a batch draw the same weight, but each mixes the images of its own share,
    so that other pairs are mixed than in the whole batch.

    Args:
        recipe: which mixes are made.
        num_classes: number of classes K.
        seed: seed of the random numbers, together with epoch and batch.
    """

    def __init__(self, recipe: Recipe, num_classes: int, seed: int) -> None:
        self._num_classes, self._seed = num_classes, seed
        self._kinds = [
            (mix, alpha) for mix, alpha in ((mixup, recipe.mixup), (cutmix, recipe.cutmix)) if alpha
        ]

    def __call__(
        self, images: Tensor, labels: Tensor, epoch: int, number: int
    ) -> tuple[Tensor, Tensor]:
        """Mix one batch.

        Args:
            images: normalised, float32 ``[N, 3, H, W]``.
            labels: int64 ``[N]``.
            epoch: index of the epoch, from 0.
            number: index of the batch in the epoch.

        Returns:
            The images, and probabilities of the classes, float32 ``[N, K]``; without mixes, what
            was given.
        """
        if not self._kinds:
            return images, labels
        rng = np.random.default_rng((self._seed, epoch, number, 1))
        mix, alpha = self._kinds[rng.integers(len(self._kinds))]
        return mix(images, labels, self._num_classes, alpha, rng)
