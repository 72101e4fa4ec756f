"""The Lightning module: one training step, one validation step, optimiser and schedule."""

from __future__ import annotations

import math
from collections.abc import Callable

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from delugeserve.data.augmentation import normalise, random_flip_crop
from delugeserve.errors import TrainingError
from delugeserve.training.recipes import Recipe
from delugeserve.zoo import DatasetSpec

Batch = tuple[Tensor, Tensor]


class TrainingModule(pl.LightningModule):
    """Trains a network on batches of uint8 images ``[N, H, W, 3]`` and int64 labels ``[N]``.

    Args:
        network: maps normalised images ``[N, 3, H, W]`` to logits.
        dataset: gives mean and standard deviation.
        recipe: how to train.
        seed: of the augmentation. Every step draws from a generator of its own, seeded with this
            and the step's number, so that a resumed run repeats an uninterrupted one.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, dataset: DatasetSpec, recipe: Recipe, seed: int) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.recipe = recipe
        self.seed = seed
        self.register_buffer("mean", torch.tensor(dataset.mean), persistent=False)
        self.register_buffer("std", torch.tensor(dataset.std), persistent=False)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the loss of one batch."""
        images, labels = batch
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.global_step)
        fill = (255 * self.mean).round().to(torch.uint8)
        images = random_flip_crop(images, self.recipe.crop_padding, fill, generator)
        logits = self.network(normalise(images, self.mean, self.std)).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        if not loss.isfinite():
            rate = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
            raise TrainingError(
                f"The loss is {loss.item()} at step {self.global_step}, "
                f"with the learning rate at {rate:.3g}.",
                "The state of the last whole epoch is kept; train again with a lower "
                "--learning-rate, or in fp32.",
            )
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Log loss and top-1 error, in percent, of one batch."""
        images, labels = batch
        # Around the compiled form, if there is one, which would be compiled anew for this mode.
        logits = self.network.forward(normalise(images, self.mean, self.std)).float()
        wrong = (logits.argmax(dim=1) != labels).float().mean()
        self.log("val_loss", F.cross_entropy(logits, labels), batch_size=len(labels))
        self.log("val_error", 100 * wrong, batch_size=len(labels), prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """SGD with Nesterov momentum; the learning rate changes after every step."""
        recipe = self.recipe
        optimiser = torch.optim.SGD(
            self.network.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=True,
        )
        steps = int(self.trainer.estimated_stepping_batches)
        rate = _SCHEDULES[recipe.schedule](recipe, steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def _step_schedule(recipe: Recipe, steps: int) -> Callable[[int], float]:
    milestones = [round(fraction * steps) for fraction in recipe.milestones]
    return lambda step: 0.1 ** sum(step >= milestone for milestone in milestones)


def _cosine_schedule(recipe: Recipe, steps: int) -> Callable[[int], float]:
    linear = _one_cycle_schedule(recipe, steps)
    warmup = round(recipe.warmup * steps)
    return lambda step: (
        linear(step) if step < warmup else (1 - math.cos(math.pi * linear(step))) / 2
    )


def _one_cycle_schedule(recipe: Recipe, steps: int) -> Callable[[int], float]:
    warmup = max(1, round(recipe.warmup * steps))
    return lambda step: min((step + 1) / warmup, (steps - step) / (steps - warmup + 1))


_SCHEDULES = {
    "step": _step_schedule,
    "one-cycle": _one_cycle_schedule,
    "cosine": _cosine_schedule,
}
