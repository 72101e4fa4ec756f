"""Comparison of a test's answers with those that the model gives when nothing else runs.

This is the method of MLPerf's audit TEST01, on the timed run itself: a server that answers fast
but wrongly is not fast.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from delugeserve.load.target import Target


class Checker:
    """Compares answers with a target's expected ones, and counts.

    Attributes:
        checked: answers compared.
        wrong: answers that differ by more than the target's tolerance, or have another size.
    """

    def __init__(self, target: Target) -> None:
        self.checked, self.wrong = 0, 0
        self._tolerance = target.tolerance
        expected = target.expected
        self._rows = None if expected is None else [row.tobytes() for row in expected]

    def check(self, sample_ids: Sequence[int], answer: bytes) -> None:
        """Compare one request's answer.

        Args:
            sample_ids: the request's images.
            answer: float32 ``[N, classes]``.
        """
        if self._rows is None:
            return
        self.checked += 1
        expected = b"".join([self._rows[i] for i in sample_ids])
        if answer == expected:  # by far the usual case, and cheap
            return
        if len(answer) != len(expected):
            self.wrong += 1
            return
        got, wanted = (np.frombuffer(text, np.float32) for text in (answer, expected))
        if not np.allclose(got, wanted, 0, self._tolerance):
            self.wrong += 1
