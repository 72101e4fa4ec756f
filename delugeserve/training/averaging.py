"""A moving average of the weights, which is what is evaluated and saved."""

from __future__ import annotations

from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


def moving_average(decay: float) -> WeightAveraging:
    """Average the weights exponentially, step by step.

    A short run would still carry its initial weights if the decay were the same from the start, so
    after n steps it is at most ``(1 + n) / (10 + n)``.

    Args:
        decay: what is left of the average after a step, in [0, 1).
    """

    def average(averaged: Tensor, current: Tensor, steps: Tensor | int) -> Tensor:
        n = int(steps)
        kept = min(decay, (1 + n) / (10 + n))
        return kept * averaged + (1 - kept) * current

    return WeightAveraging(avg_fn=average)
