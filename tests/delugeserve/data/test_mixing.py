"""Mixup and CutMix."""

import numpy as np
import pytest
import torch

from delugeserve.data.mixing import cutmix, mixup

LABELS = torch.tensor([0, 1, 2, 1])


def images(memory_format=torch.channels_last):
    """Each pixel of image i is i."""
    pixels = torch.arange(4.0)[:, None, None, None].expand(4, 3, 12, 20)
    return pixels.contiguous(memory_format=memory_format)


def rng(seed):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("mix", [mixup, cutmix])
@pytest.mark.parametrize("seed", range(20))
def test_labels_are_mixed_as_the_pixels_are(mix, seed):
    pixels = images()
    mixed, targets = mix(pixels, LABELS, 3, 1.0, rng(seed))
    assert torch.equal(pixels, images()), "what was given stays as it is"
    assert targets.sum(1).tolist() == pytest.approx([1] * 4)
    # Image 1 (class 1) is mixed with image 0 (class 0), so the mean of its pixels is its share.
    assert mixed[1].mean().item() == pytest.approx(targets[1, 1].item(), abs=1e-5)
    assert mixed[0].mean().item() == pytest.approx(3 * (1 - targets[0, 0].item()), abs=1e-5)


def test_mixup_blends_whole_images():
    mixed, _ = mixup(images(), LABELS, 3, 1.0, rng(0))
    assert all(len(image.unique()) == 1 for image in mixed)
    assert 0 < mixed[1].mean() < 1


def test_cutmix_pastes_one_rectangle_which_the_border_clips():
    sizes = set()
    for seed in range(50):
        mixed, _ = cutmix(images(), LABELS, 3, 1.0, rng(seed))
        assert set(mixed[1].unique().tolist()) <= {0.0, 1.0}
        pasted = (mixed[1, 0] == 0).numpy()
        rows, columns = pasted.any(1), pasted.any(0)
        assert np.array_equal(pasted, rows[:, None] & columns)
        assert all(np.diff(np.flatnonzero(line)).max(initial=1) == 1 for line in (rows, columns))
        sizes.add((rows.sum(), columns.sum()))
    assert len(sizes) > 25


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_channels_last_memory_is_kept(mix):
    mixed, _ = mix(images(), LABELS, 3, 1.0, rng(0))
    assert mixed.is_contiguous(memory_format=torch.channels_last)


def test_alpha_sets_how_much_is_mixed():
    shares = {
        alpha: [mixup(images(), LABELS, 3, alpha, rng(seed))[1][1, 1] for seed in range(200)]
        for alpha in (0.1, 10.0)
    }
    spread = {alpha: float(np.std(values)) for alpha, values in shares.items()}
    assert spread[0.1] > 0.4
    assert spread[10.0] < 0.15
