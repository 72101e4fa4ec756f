"""Fine-tuning: the classifier alone is trained, for the first steps or throughout."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import nn

from delugeserve.training.module import TrainingModule


def freeze_all_but_classifier(network: nn.Module) -> None:
    """Exclude all weights but the classifier's from training, which saves the backward pass."""
    kept = set(classifier(network).parameters())
    for parameter in network.parameters():
        parameter.requires_grad_(parameter in kept)


def classifier(network: nn.Module) -> nn.Linear:
    """Return a network's last layer, the only one that is linear."""
    (linear,) = (module for module in network.modules() if isinstance(module, nn.Linear))
    return linear


class FreezeParts(Callback):
    """Trains the classifier alone for the first steps, and keeps BatchNorm's statistics.

    In the first steps the other weights do not change, and BatchNorm keeps its running statistics
    and uses them. So a classifier that was made anew does not disturb them with the gradients of
    its first steps.

    Args:
        part: fraction of the run's steps; 1 for all.
        norms: whether BatchNorm keeps its statistics in all steps.
    """

    def __init__(self, part: float, *, norms: bool = False) -> None:
        self._part = part
        self._norms = norms
        self._steps = 0.0
        self._frozen = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the first steps."""
        self._steps = self._part * trainer.estimated_stepping_batches

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Set the mode of the layers: after each test, Lightning sets all to training."""
        assert isinstance(pl_module, TrainingModule)
        was_frozen = self._frozen
        self._frozen = trainer.global_step < self._steps
        if self._frozen:
            pl_module.network.eval()
            classifier(pl_module.network).train()
            return
        if was_frozen:
            pl_module.network.train()
        if self._norms:
            for module in pl_module.network.modules():
                if hasattr(module, "running_mean"):
                    module.eval()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        """Drop the gradients of what is frozen: optimisers skip weights without any."""
        if not self._frozen:
            return
        assert isinstance(pl_module, TrainingModule)
        kept = set(classifier(pl_module.network).parameters())
        for parameter in pl_module.network.parameters():
            if parameter not in kept:
                parameter.grad = None
