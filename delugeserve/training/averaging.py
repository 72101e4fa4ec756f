"""A moving average of the weights, which is what is evaluated and saved."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class MovingAverage(WeightAveraging):
    """Averages the weights exponentially, step by step.

    A short run would still carry its initial weights if the decay were the same from the start, so
    after n steps it is at most ``(1 + n) / (10 + n)``.

    Args:
        decay: what is left of the average after a step, in [0, 1).
    """

    def __init__(self, decay: float) -> None:
        def average(averaged: Tensor, current: Tensor, steps: Tensor | int) -> Tensor:
            n = int(steps)
            kept = min(decay, (1 + n) / (10 + n))
            return kept * averaged + (1 - kept) * current

        super().__init__(avg_fn=average)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the average in a run that was resumed after its last epoch, too.

        Such a run has nothing to train, and Lightning calls no ``on_train_end``.
        """
        self.on_train_end(trainer, pl_module)
