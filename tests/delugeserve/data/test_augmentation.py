import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from delugeserve.data.augmentation import cutout, random_flip_crop

FILL = torch.tensor([7, 8, 9], dtype=torch.uint8)


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 5),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    padding=st.integers(0, 4),
    seed=st.integers(0, 2**31),
)
def test_every_crop_is_a_window_of_the_padded_image_or_its_mirror(n, height, width, padding, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(10, 256, (n, height, width, 3), dtype=np.uint8)
    crops = random_flip_crop(torch.from_numpy(images), padding, FILL, rng).numpy()
    assert crops.shape == images.shape
    for image, crop in zip(images, crops, strict=True):
        padded = np.empty((height + 2 * padding, width + 2 * padding, 3), np.uint8)
        padded[:] = FILL.numpy()
        padded[padding : padding + height, padding : padding + width] = image
        windows = [
            padded[y : y + height, x : x + width]
            for y in range(2 * padding + 1)
            for x in range(2 * padding + 1)
        ]
        assert any(
            np.array_equal(crop, window) or np.array_equal(crop, window[:, ::-1])
            for window in windows
        )


def test_flips_and_offsets_are_spread():
    image = torch.arange(25, dtype=torch.uint8).reshape(1, 5, 5, 1).expand(1000, 5, 5, 3)
    crops = random_flip_crop(image.contiguous(), 1, FILL, np.random.default_rng(0))
    kinds, counts = np.unique(crops[..., 0].numpy().reshape(1000, -1), axis=0, return_counts=True)
    assert len(kinds) == 18
    assert counts.min() > 25


@pytest.mark.parametrize("size", [1, 2, 4])
def test_shares_come_out_as_the_whole_batch_does(size):
    images = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8)
    whole = random_flip_crop(images, 4, FILL, np.random.default_rng(3))
    shares = torch.empty_like(whole)
    for rank in range(size):
        rng = np.random.default_rng(3)
        shares[rank::size] = random_flip_crop(
            images[rank::size], 4, FILL, rng, rank=rank, size=size
        )
    assert torch.equal(shares, whole)


@pytest.mark.parametrize("side", [1, 2, 5, 40])
def test_a_cutout_is_one_square_that_borders_clip(side):
    images = torch.full((200, 6, 9, 3), 100, dtype=torch.uint8)
    covered = (cutout(images, side, FILL, np.random.default_rng(0)) != images).all(-1).numpy()
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
    covered = cutout(images, side, FILL, np.random.default_rng(0)) != images
    assert covered.all() == whole


def test_cutouts_reach_every_pixel_and_have_the_filling_s_colour():
    images = torch.full((500, 4, 5, 3), 100, dtype=torch.uint8)
    cut = cutout(images, 1, FILL, np.random.default_rng(0))
    assert (cut != images).all(-1).any(0).all()
    assert torch.equal(cut[(cut != images).all(-1)].unique(dim=0), FILL[None])
    assert torch.equal(images, torch.full_like(images, 100))


def test_shares_are_cut_as_the_whole_batch_is():
    images = torch.randint(1, 256, (8, 32, 32, 3), dtype=torch.uint8)
    whole = cutout(images, 8, FILL, np.random.default_rng(3))
    for rank in range(2):
        rng = np.random.default_rng(3)
        share = cutout(images[rank::2], 8, FILL, rng, rank=rank, size=2)
        assert torch.equal(share, whole[rank::2])
