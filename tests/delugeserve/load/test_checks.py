import numpy as np
import pytest

from delugeserve.load import Target
from delugeserve.load.checks import Checker


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (np.float32([0.5, 0.5]).tobytes(), 0),
        (np.float32([0.505, 0.495]).tobytes(), 0),
        (np.float32([0.6, 0.4]).tobytes(), 1),
        (np.float32([np.nan, 0.5]).tobytes(), 1),
        (np.float32([0.5]).tobytes(), 1),
        (b"abc", 1),
        (b"", 1),
    ],
)
def test_answers_are_compared(answer, wrong):
    images, expected = np.zeros((1, 2, 2, 3), np.uint8), np.full((1, 2), 0.5, np.float32)
    checker = Checker(Target("host:1", "m", images, expected))
    checker.check([0], answer)
    assert (checker.checked, checker.wrong) == (1, wrong)
