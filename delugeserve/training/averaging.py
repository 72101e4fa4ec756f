"""A moving average of the weights, which is evaluated and saved."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class MovingAverage(WeightAveraging):
    """Averages the weights exponentially, step by step.

    After n steps the decay is at most ``(1 + n) / (10 + n)``: with a constant decay, the average of
    a short run would still contain the initial weights.

    Args:
        decay: weight of the previous average in a step, in [0, 1).
    """

    def __init__(self, decay: float) -> None:
        def average(averaged: Tensor, current: Tensor, steps: Tensor | int) -> Tensor:
            n = int(steps)
            kept = min(decay, (1 + n) / (10 + n))
            return kept * averaged + (1 - kept) * current

        super().__init__(avg_fn=average)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Use the average also in a run that is resumed after its last epoch.

        Such a run does not train, and Lightning does not call ``on_train_end``.
        """
        self.on_train_end(trainer, pl_module)
