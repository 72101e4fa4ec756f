"""Flips, crops and cutouts of batches in memory."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from delugeserve.data.augmentation import Draws, cutout, first_mirrored, flip, random_crop

FILL = torch.tensor([7, 8, 9], dtype=torch.uint8)
CPU = torch.device("cpu")


def draws(*seed, **share):
    return Draws(seed or (0,), CPU, **share)


def random_images(*shape):
    return torch.from_numpy(np.random.default_rng(0).integers(10, 256, (*shape, 3), np.uint8))


def test_flips_mirror_the_chosen_images_alone():
    images = random_images(6, 5, 7)
    mirrored = torch.tensor([True, False, False, True, True, False])
    before = images.clone()
    flipped = flip(images, mirrored)
    for image, one, is_mirrored in zip(before, flipped, mirrored, strict=True):
        assert torch.equal(one, image.flip(1) if is_mirrored else image)
    assert torch.equal(images, before), "the data set itself stays as it is"


def test_half_of_the_images_are_mirrored_first_and_the_seed_says_which():
    first = first_mirrored(1000, 0)
    assert 400 < first.sum() < 600
    assert np.array_equal(first, first_mirrored(1000, 0))
    assert 400 < (first != first_mirrored(1000, 1)).sum() < 600


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 5),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    padding=st.integers(0, 4),
    seed=st.integers(0, 2**31),
)
def test_every_crop_is_a_window_of_the_padded_image(n, height, width, padding, seed):
    images = random_images(n, height, width)
    crops = random_crop(images, padding, FILL, draws(seed)).numpy()
    assert crops.shape == images.shape
    for image, crop in zip(images.numpy(), crops, strict=True):
        padded = np.empty((height + 2 * padding, width + 2 * padding, 3), np.uint8)
        padded[:] = FILL.numpy()
        padded[padding : padding + height, padding : padding + width] = image
        assert any(
            np.array_equal(crop, padded[y : y + height, x : x + width])
            for y in range(2 * padding + 1)
            for x in range(2 * padding + 1)
        )


def test_offsets_are_spread():
    image = torch.arange(25, dtype=torch.uint8).reshape(1, 5, 5, 1).expand(1000, 5, 5, 3)
    crops = random_crop(image.contiguous(), 1, FILL, draws())
    kinds, counts = np.unique(crops[..., 0].numpy().reshape(1000, -1), axis=0, return_counts=True)
    assert len(kinds) == 9
    assert counts.min() > 70


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("change", [random_crop, cutout])
def test_shares_come_out_as_the_whole_batch_does(change, size):
    images = random_images(8, 32, 32)
    whole = change(images, 4, FILL, draws(3))
    assert not torch.equal(whole, change(images, 4, FILL, draws(4)))
    for rank in range(size):
        share = change(images[rank::size], 4, FILL, draws(3, rank=rank, size=size))
        assert torch.equal(share, whole[rank::size])


@pytest.mark.parametrize("side", [1, 2, 5, 40])
def test_a_cutout_is_one_square_that_borders_clip(side):
    images = torch.full((200, 6, 9, 3), 100, dtype=torch.uint8)
    covered = (cutout(images, side, FILL, draws()) != images).all(-1).numpy()
    shown = covered.reshape(200, -1).sum(axis=1)
    assert shown.min() >= min(side, 6) // 2 * (min(side, 9) // 2)
    assert shown.max() == min(side, 6) * min(side, 9)
    for image in covered:
        rows, columns = image.any(axis=1), image.any(axis=0)
        assert np.array_equal(image, rows[:, None] & columns[None, :])
        assert all(np.diff(np.flatnonzero(line)).max(initial=1) == 1 for line in (rows, columns))


@pytest.mark.parametrize(("side", "whole"), [(10, False), (11, True)])
def test_twice_the_size_of_an_image_covers_all_of_it(side, whole):
    images = torch.full((500, 6, 6, 3), 100, dtype=torch.uint8)
    covered = cutout(images, side, FILL, draws()) != images
    assert covered.all() == whole


def test_cutouts_reach_every_pixel_and_have_the_filling_s_colour():
    images = torch.full((500, 4, 5, 3), 100, dtype=torch.uint8)
    cut = cutout(images, 1, FILL, draws())
    assert (cut != images).all(-1).any(0).all()
    assert torch.equal(cut[(cut != images).all(-1)].unique(dim=0), FILL[None])
    assert torch.equal(images, torch.full_like(images, 100))
