"""What a recipe changes in a batch, and that it depends on seed, epoch and batch alone."""

import dataclasses

import numpy as np
import pytest
import torch

from delugeserve.training.augment import Augment, Mix
from delugeserve.training.distributed import World
from delugeserve.training.recipes import find_recipe, override
from delugeserve.zoo import CIFAR10

ALONE = World()
PAIR = [World(rank, 2, rank, 2) for rank in (0, 1)]
LABELS = torch.zeros(8, dtype=torch.int64)
PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8))
INDICES = torch.tensor([5, 0, 7, 3, 1, 2, 6, 4])


def augment(seed=0, world=ALONE, task=CIFAR10, **values):
    return Augment(task, override(find_recipe("cifar"), **values), seed, world, len(PIXELS))


@pytest.mark.parametrize("flip", ["random", "alternating", "none"])
@pytest.mark.parametrize(("cutout", "policy"), [(0, "none"), (8, "none"), (0, "trivial")])
def test_augmentation_depends_on_seed_epoch_and_batch(flip, cutout, policy):
    values = {"flip": flip, "cutout": cutout, "augment": policy}
    changed = augment(**values)((PIXELS, LABELS, INDICES), 1, 2)
    assert torch.equal(changed, augment(**values)((PIXELS, LABELS, INDICES), 1, 2))
    for other in (
        augment(**values)((PIXELS, LABELS, INDICES), 2, 1),
        augment(**values)((PIXELS, LABELS, INDICES), 1, 3),
        augment(seed=1, **values)((PIXELS, LABELS, INDICES), 1, 2),
    ):
        assert not torch.equal(changed, other)
    batch = (PIXELS, LABELS, INDICES)
    shares = [
        augment(world=world, **values)([part[world.rank :: 2] for part in batch], 1, 2)
        for world in PAIR
    ]
    assert torch.equal(torch.stack(shares, 1).flatten(0, 1), changed)


def test_alternating_flips_mirror_an_image_in_every_second_epoch():
    flipped = augment(flip="alternating", crop_padding=0)
    epochs = [flipped((PIXELS, LABELS, INDICES), epoch, 0) for epoch in range(4)]
    first = (epochs[0] != PIXELS).flatten(1).any(1)
    assert first.any()
    assert not first.all()
    for epoch, images in enumerate(epochs):
        for image, found, mirrored in zip(PIXELS, images, first, strict=True):
            odd = bool(epoch % 2) ^ bool(mirrored)
            assert torch.equal(found, image.flip(1) if odd else image)
    again = torch.arange(8)  # in another order, and another batch
    assert torch.equal(
        flipped((PIXELS[INDICES.argsort()], LABELS, again), 2, 5), epochs[0][INDICES.argsort()]
    )


def test_without_any_change_the_images_stay():
    assert torch.equal(
        augment(flip="none", crop_padding=0)((PIXELS, LABELS, INDICES), 0, 0), PIXELS
    )


@pytest.mark.parametrize("values", [{}, {"crop_padding": 0, "cutout": 8}])
def test_what_is_filled_is_the_data_set_s_mean(values):
    white = dataclasses.replace(CIFAR10, mean=(1.0, 1.0, 1.0))
    filled = augment(task=white, **values)((torch.zeros_like(PIXELS), LABELS, INDICES), 0, 0)
    assert set(filled.unique().tolist()) == {0, 255}


def test_a_policy_s_draws_differ_by_epoch_and_batch():
    plain = augment(augment="randaugment", flip="none", crop_padding=0)
    changed = [plain((PIXELS, LABELS, INDICES), *at) for at in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert torch.equal(changed[0], changed[1])
    assert not torch.equal(changed[0], changed[2])
    assert not torch.equal(changed[0], changed[3])


def test_images_that_come_cropped_get_the_policy_alone():
    recipe = override(find_recipe("cifar"), cutout=8)
    plain = Augment(CIFAR10, recipe, 0, ALONE)
    assert torch.equal(plain((PIXELS, LABELS), 0, 0), PIXELS)
    changed = Augment(CIFAR10, override(recipe, augment="randaugment"), 0, ALONE)
    assert (changed((PIXELS, LABELS), 0, 0) != PIXELS).flatten(1).any(1).sum() > 4


def mix(seed=0, **values):
    return Mix(override(find_recipe("cifar"), **values), 3, seed)


def test_mixes_depend_on_seed_epoch_and_batch():
    pixels, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])
    mixed, targets = mix(mixup=1.0)(pixels, labels, 1, 2)
    assert torch.equal(mixed, mix(mixup=1.0)(pixels, labels, 1, 2)[0])
    assert targets.shape == (4, 3)
    for other in (
        mix(mixup=1.0)(pixels, labels, 2, 1),
        mix(mixup=1.0)(pixels, labels, 1, 3),
        mix(seed=1, mixup=1.0)(pixels, labels, 1, 2),
    ):
        assert not torch.equal(mixed, other[0])


def test_with_both_each_batch_gets_one():
    constant = torch.arange(4.0)[:, None, None, None].expand(4, 3, 8, 8)
    both = mix(mixup=1.0, cutmix=1.0)
    blended = [
        any(
            bool((value % 1) > 1e-3)
            for value in both(constant, torch.arange(4) % 3, 0, n)[0].unique()
        )
        for n in range(40)
    ]
    assert 10 < sum(blended) < 30


def test_without_mixes_a_batch_stays():
    pixels, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])
    assert mix()(pixels, labels, 0, 0) == (pixels, labels)
