"""A moving average of the weights, which is evaluated and saved."""

from __future__ import annotations

from itertools import chain
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn


class MovingAverage(WeightAveraging):
    """Averages the weights exponentially, step by step.

    After n steps the decay is at most ``n / (9 + n)``: with a constant decay, the average of a
    short run would still contain the initial weights.

    Args:
        decay: weight of the previous average in a step, in [0, 1).
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self._decay = decay

    @property
    def averaged(self) -> nn.Module:
        """The module with the averaged weights, while a run is in progress."""
        assert self._average_model is not None
        module: nn.Module = self._average_model.module
        return module

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Update the average after an optimiser step.

        All tensors at once; PyTorch's own update takes them one by one, and waits for the GPU.
        """
        step = trainer.global_step
        if step <= self._latest_update_step:  # gradients are accumulated
            return
        pairs = [
            (averaged.detach(), current.detach())
            for averaged, current in zip(_tensors(self.averaged), _tensors(pl_module), strict=True)
        ]
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        kept = min(self._decay, step / (9 + step)) if step > 1 else 0.0
        averages, weights = ([pair[side] for pair in floats] for side in (0, 1))
        torch._foreach_lerp_(averages, weights, 1 - kept)
        for averaged, current in pairs:
            if not averaged.is_floating_point():
                averaged.copy_(current)
        assert self._average_model is not None
        self._average_model.n_averaged += 1
        self._latest_update_step = step

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Use the average also in a run that is resumed after its last epoch.

        Such a run does not train, and Lightning does not call ``on_train_end``.
        """
        self.on_train_end(trainer, pl_module)


def _tensors(module: nn.Module) -> chain[torch.Tensor]:
    return chain(module.parameters(), module.buffers())
