import numpy as np
import pytest

from delugeserve.load.histogram import encode, histogram_of, merge, percentiles_ms
from delugeserve.load.rows import half_width


def test_percentiles_are_those_of_the_latencies():
    latencies = np.random.default_rng(0).exponential(0.01, 5000)
    found = percentiles_ms(histogram_of(latencies))
    for name, value in found.items():
        exact = np.sort(latencies)[round(len(latencies) * float(name) / 100) - 1] * 1e3
        assert value == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize(
    ("count", "name", "rank"),
    [(100, "99.9", 100), (100, "99", 99), (662, "99.9", 662), (1, "50", 1)],
)
def test_a_percentile_is_not_rounded_down(count, name, rank):
    latencies = np.arange(1, count + 1) / 100
    found = percentiles_ms(histogram_of(latencies))[name]
    assert round(found / 10) == rank


def test_histograms_merge():
    parts = np.random.default_rng(1).exponential(0.01, (3, 500))
    merged = merge(encode(histogram_of(part)) for part in parts)
    assert percentiles_ms(merged) == percentiles_ms(histogram_of(parts.ravel()))


def test_a_confidence_interval_is_students():
    assert half_width([1.0]) is None
    assert half_width([1.0, 3.0]) == pytest.approx(12.71, rel=1e-3)  # 12.71 * sqrt(2) / sqrt(2)
    assert half_width([2.0] * 20) == 0.0
