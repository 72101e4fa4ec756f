"""Calibration: laws that hold for any activations, and the thresholds of some known ones."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from delugeserve.errors import EvaluationError
from delugeserve_export.calibration import METHODS, Histogram, percentile, threshold

RNG = np.random.default_rng(0)

# Activations come batch by batch, of any size: between them the range may grow a thousandfold.
values = arrays.arrays(
    np.float32, st.integers(1, 50), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
)
batches = st.lists(values, min_size=1, max_size=4)


def histogram_of(*batches):
    histogram = Histogram()
    for batch in batches:
        histogram.add(np.asarray(batch, np.float32))
    return histogram


@settings(max_examples=60, deadline=None)
@given(batches)
@example([np.array([np.finfo(np.float32).smallest_normal])])
def test_a_histogram_forgets_no_value(batches):
    histogram = histogram_of(*batches)
    everything = np.concatenate(batches)
    assert histogram.counts.sum() == np.count_nonzero(everything)
    assert histogram.maximum == np.abs(everything).max()
    assert histogram.maximum <= histogram.limit or not histogram.maximum
    assert histogram.signed == (everything < 0).any()


@settings(max_examples=60, deadline=None)
@given(batches, st.sampled_from(METHODS), st.sampled_from([128, 256]))
def test_a_threshold_is_positive_and_within_the_values(batches, method, levels):
    histogram = histogram_of(*batches)
    chosen = threshold(histogram, method, levels=levels)
    assert chosen > 0
    if histogram.maximum:
        assert chosen <= histogram.maximum
    if method == "minmax" and histogram.maximum:
        assert chosen == histogram.maximum


@settings(max_examples=60, deadline=None)
@given(batches, st.lists(st.floats(1, 100), min_size=2, max_size=2))
def test_a_higher_percentile_is_no_smaller(batches, percents):
    histogram = histogram_of([1.0], *batches)
    low, high = (percentile(histogram, percent) for percent in sorted(percents))
    assert low <= high <= histogram.maximum
    assert percentile(histogram, 100) == histogram.maximum


def test_percentile_of_a_ramp():
    histogram = histogram_of(np.linspace(0, 10, 100_001))
    assert percentile(histogram, 50) == pytest.approx(5, abs=0.01)
    assert threshold(histogram, "percentile") == pytest.approx(9.999, abs=0.01)


def test_entropy_keeps_an_even_spread_and_clips_a_long_tail():
    even = histogram_of(RNG.uniform(0, 1, 50_000))
    assert threshold(even, "entropy") > 0.95
    tailed = histogram_of(np.append(np.abs(RNG.normal(size=50_000)), 40))
    assert 2 < threshold(tailed, "entropy") < 8


def test_a_tensor_of_zeros_has_a_scale():
    assert {threshold(histogram_of(np.zeros(9)), method) for method in METHODS} == {1.0}


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_no_number_is_refused(bad):
    with pytest.raises(EvaluationError, match="not finite"):
        histogram_of([1, bad, 2])
