"""Weights and draws for classes of unequal size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delugeserve.data.balance import balanced_draw, class_weights


def rng(seed=0):
    return np.random.default_rng(seed)


def test_weights_are_inverse_to_the_sizes_and_average_to_one_per_image():
    labels = np.array([0, 0, 0, 2, 1, 1])
    weights = class_weights(labels, 4)
    assert weights.tolist() == pytest.approx([2 / 3, 1, 2, 1])
    assert weights[labels].mean() == pytest.approx(1)
    assert weights.dtype == np.float32


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 99))
def test_a_draw_has_as_many_images_and_every_class_equally_often(labels, seed):
    labels = np.array(labels)
    drawn = balanced_draw(labels, rng(seed))
    assert len(drawn) == len(labels)
    assert np.array_equal(drawn, np.sort(drawn))
    present = np.unique(labels)
    counts = np.bincount(labels[drawn], minlength=5)[present]
    assert counts.max() - counts.min() <= 1
    for label in present:  # within a class, no image is drawn twice before each is drawn once
        repeats = np.bincount(drawn, minlength=len(labels))[labels == label]
        assert repeats.max() - repeats.min() <= 1


def test_draws_differ_by_seed():
    labels = np.repeat([0, 1], [50, 10])
    assert np.array_equal(balanced_draw(labels, rng()), balanced_draw(labels, rng()))
    assert not np.array_equal(balanced_draw(labels, rng()), balanced_draw(labels, rng(1)))
    assert len(set().union(*(balanced_draw(labels, rng(seed)) for seed in range(20)))) == 60
