"""What a recipe changes in a training batch, on the device, reproducible from seed and epoch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from delugeserve.data.augmentation import Draws, cutout, first_mirrored, flip, random_crop
from delugeserve.data.mixing import cutmix, mixup
from delugeserve.data.policies import apply_policy
from delugeserve.training.batches import Batch
from delugeserve.training.distributed import World
from delugeserve.training.recipes import Recipe
from delugeserve.zoo import Task


class Augment:
    """Changes the images of a batch: a process's share of images in memory as in the whole batch.

    Args:
        task: gives the mean colour, with which images are padded and covered.
        recipe: which changes are made.
        seed: seed of the random numbers, together with epoch and batch.
        world: the processes that share the batches.
        count: number of images in the split, if they are in memory. None for images that are
            decoded as needed, which come flipped and cropped: only the recipe's policy is applied.
    """

    def __init__(
        self, task: Task, recipe: Recipe, seed: int, world: World, count: int | None = None
    ) -> None:
        self._recipe, self._seed, self._world = recipe, seed, world
        self._fill = torch.tensor([round(255 * mean) for mean in task.mean], dtype=torch.uint8)
        self._first = None if count is None else torch.from_numpy(first_mirrored(count, seed))

    def __call__(self, batch: Batch, epoch: int, number: int) -> Tensor:
        """Augment one batch.

        Args:
            batch: its images, labels and, of images in memory, indices, on any device.
            epoch: index of the epoch, from 0.
            number: index of the batch in the epoch.

        Returns:
            uint8 ``[N, H, W, 3]``.
        """
        images, seed, recipe = batch[0], (self._seed, epoch, number), self._recipe
        self._fill = self._fill.to(images.device)
        share = {"rank": self._world.rank, "size": self._world.size}
        draws = Draws(seed, images.device, **share)
        if self._first is not None:
            self._first = self._first.to(images.device)
            if recipe.flip == "random":
                images = flip(images, draws.integers(2, len(images)).bool())
            elif recipe.flip == "alternating":
                images = flip(images, self._first[batch[2]] ^ bool(epoch % 2))
            if recipe.crop_padding:
                images = random_crop(images, recipe.crop_padding, self._fill, draws)
        if recipe.augment != "none":
            rng = np.random.default_rng((*seed, 3))
            images = apply_policy(images, recipe.augment, self._fill, rng, **share)
        if recipe.cutout and self._first is not None:
            images = cutout(images, recipe.cutout, self._fill, draws)
        return images


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
