"""CIFAR-10 on the device, for `gpu_loop.py`: loading and augmentation."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from delugeserve.data.datasets import load_images
from delugeserve.networks.classifier import normalise
from delugeserve.training.recipes import Recipe
from delugeserve.zoo import CIFAR10

HELD_OUT = 5_000


@dataclass(frozen=True)
class Data:
    """CIFAR-10 on the device.

    Attributes:
        train: normalised images, float32 ``[N, 3, 32, 32]``.
        labels: their classes, ``[N]``.
        test: normalised images to test with.
        test_labels: their classes.
        facts: where they are from, for the checkpoint.
    """

    train: Tensor
    labels: Tensor
    test: Tensor
    test_labels: Tensor
    facts: dict[str, Any]


def load(device: str, limit: int | None = None, *, whole: bool = False) -> Data:
    """Load CIFAR-10 from the folder that ``DELUGESERVE_DATA`` names.

    Args:
        device: ``cuda`` or ``cpu``.
        limit: number of training and of test images; None for all.
        whole: test on the test split; otherwise on 5,000 training images, which are held out.
    """
    source, cut = os.environ["DELUGESERVE_DATA"], slice(limit)
    found = load_images(source, "train", CIFAR10)
    tests = load_images(source, "test", CIFAR10) if whole else found
    held = np.zeros(len(found), bool)
    held[np.random.default_rng(0).permutation(len(found))[:HELD_OUT]] = True
    trained: Any = slice(None) if whole else ~held
    tested: Any = slice(None) if whole else held
    facts = {
        "source": "cifar10",
        "train_images": len(found) - (0 if whole else HELD_OUT),
        "train_fingerprint": found.fingerprint,
    }
    if whole:
        facts["test_fingerprint"] = tests.fingerprint
    return Data(
        train=_normalised(found.images[trained][cut], device),
        labels=torch.from_numpy(found.labels[trained][cut]).to(device),
        test=_normalised(tests.images[tested][cut], device),
        test_labels=torch.from_numpy(tests.labels[tested][cut]).to(device),
        facts=facts,
    )


def _normalised(images: Any, device: str) -> Tensor:
    mean, std = (torch.tensor(values, device=device) for values in (CIFAR10.mean, CIFAR10.std))
    pixels = torch.from_numpy(images).to(device)
    return torch.cat([normalise(part, mean, std) for part in pixels.split(5000)])


def augment(
    images: Tensor, recipe: Recipe, epoch: int, mirror: Tensor, generator: torch.Generator
) -> Tensor:
    """Flip, crop and cover a batch.

    Args:
        images: ``[N, 3, H, H]``.
        recipe: how.
        epoch: its number, from 0.
        mirror: bool ``[N]``: which images are flipped in even epochs, with alternating flips.
        generator: of the random numbers.
    """
    device = images.device
    if recipe.flip == "alternating":
        flip = mirror ^ bool(epoch % 2)
    else:
        flip = torch.rand(len(images), device=device, generator=generator) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    if recipe.crop_padding:
        images = _crop(images, recipe.crop_padding, generator)
    if recipe.cutout:
        images = _cover(images, recipe.cutout, generator)
    return images


def _crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    count, side, device = len(images), images.shape[-1], images.device
    padded = F.pad(images, (padding,) * 4)
    high = 2 * padding + 1
    offsets = torch.randint(0, high, (2, count, 1), device=device, generator=generator)
    rows, columns = offsets + torch.arange(side, device=device)
    index = torch.arange(count, device=device)[:, None, None]
    # An index between slices puts the channels last.
    cropped = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)


def _cover(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    count, size, device = len(images), images.shape[-1], images.device
    centres = torch.randint(0, size, (2, count, 1), device=device, generator=generator)
    place = torch.arange(size, device=device)
    rows, columns = (place >= centres - side // 2) & (place < centres + (side + 1) // 2)
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)
