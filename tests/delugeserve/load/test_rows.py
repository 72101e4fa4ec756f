import pytest

from delugeserve.load.rows import half_width


@pytest.mark.parametrize(("count", "width"), [(2, 6.353), (12, 2.291), (40, 3.774)])
def test_a_confidence_interval_is_that_of_students_t(count, width):
    assert half_width(range(count)) == pytest.approx(width, rel=0.01)
    assert half_width([1.0]) is None
