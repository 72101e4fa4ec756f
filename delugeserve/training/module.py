"""The Lightning module: training step, validation step, optimiser and schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from delugeserve.errors import CheckpointError, TrainingError
from delugeserve.networks.classifier import normalise
from delugeserve.training.augment import Augment, Mix
from delugeserve.training.batches import Batch
from delugeserve.training.distillation import Teacher
from delugeserve.training.distributed import share_buffers
from delugeserve.training.optimisers import build_optimiser
from delugeserve.training.recipes import Recipe
from delugeserve.training.records import as_recorded, changed_settings, describe_changes
from delugeserve.training.saving import STATE_FILE, describe_state
from delugeserve.zoo import Task

_CHECKED_STEPS = 16


class TrainingModule(pl.LightningModule):
    """Trains a network on batches of uint8 images ``[N, H, W, 3]`` and int64 labels ``[N]``.

    Args:
        network: maps normalised images ``[N, 3, H, W]`` to logits.
        task: gives mean and standard deviation.
        recipe: how to train.
        augment: augments the images of a training batch; None for none.
        mix: mixes the images of a training batch; None for none.
        class_weights: weights of the classes in the loss, float32 ``[K]``; None for none.
        teacher: a trained network; None for none.
    """

    mean: Tensor
    std: Tensor
    teacher: Teacher | None
    class_weights: Tensor | None
    _tested: Tensor  # summed loss, errors and images of this process

    def __init__(
        self,
        network: nn.Module,
        task: Task,
        recipe: Recipe,
        augment: Augment | None = None,
        mix: Mix | None = None,
        class_weights: Tensor | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__()
        # Not as a submodule: it is neither trained nor saved.
        self.__dict__["teacher"] = teacher
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.recipe = recipe
        self.augment = augment
        self.mix = mix
        self.register_buffer("mean", torch.tensor(task.mean), persistent=False)
        self.register_buffer("std", torch.tensor(task.std), persistent=False)
        self.register_buffer("class_weights", class_weights, persistent=False)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the loss of one batch.

        Raises:
            TrainingError: it is not finite. On a GPU every 16th loss is checked.
        """
        images, labels = batch[:2]
        if self.augment:
            images = self.augment(batch, self.current_epoch, batch_index)
        pixels = normalise(images, self.mean, self.std)
        if self.current_epoch < self.recipe.small_images * self.recipe.epochs:
            pixels = shrink(pixels)
        if self.mix:
            pixels, labels = self.mix(pixels, labels, self.current_epoch, batch_index)
        logits = self.network(pixels).float()
        # PyTorch's mean divides by the weights of labels, but not by those of probabilities.
        loss = F.cross_entropy(
            logits,
            labels,
            self.class_weights,
            label_smoothing=self.recipe.label_smoothing,
            reduction="sum",
        ) / len(logits)
        if self.teacher is not None:
            part = self.recipe.distillation
            loss = (1 - part) * loss + part * self.teacher(pixels, logits)
        # On a GPU not after every step: the processor would wait for the result.
        if (batch_index % _CHECKED_STEPS == 0 or loss.device.type == "cpu") and not loss.isfinite():
            raise self._diverged("loss", loss)
        if self.loggers:
            self.log("step_loss", loss)
        self.log("train_loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def on_fit_start(self) -> None:
        """Move the teacher to the device."""
        if self.teacher is not None:
            self.teacher.to(self.device)

    def on_validation_epoch_start(self) -> None:
        """Make all processes test the same network: the first one's, which is saved."""
        if self.trainer.world_size > 1:
            share_buffers(self.network)
        self._tested = torch.zeros(3, device=self.device)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Add up losses and errors of one batch, in fp32 as in the final evaluation."""
        images, labels = batch[:2]
        with torch.autocast(self.device.type, enabled=False):
            # Not the compiled form, if there is one: it would be compiled anew for this mode.
            logits = self.network.forward(normalise(images, self.mean, self.std))
        loss = F.cross_entropy(logits, labels, reduction="sum")
        wrong = (logits.argmax(dim=1) != labels).sum()
        self._tested += torch.stack([loss, wrong, torch.full_like(loss, len(labels))])

    def on_validation_epoch_end(self) -> None:
        """Log mean loss and top-1 error, in percent, over the images of all processes.

        Lightning's own mean over processes is wrong where these have unequally many images.

        Raises:
            TrainingError: the loss is not finite; the state is not saved then.
        """
        loss, wrong, count = self.trainer.strategy.reduce(self._tested, reduce_op="sum")
        if not loss.isfinite():
            raise self._diverged("test loss", loss)
        self.log("val_loss", loss / count)
        self.log("val_error", 100 * wrong / count)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return the recipe's optimiser, and a schedule that acts after every step."""
        optimiser = build_optimiser(self.network, self.recipe)
        rate = learning_rate(self.recipe, int(self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the recipe with the state."""
        checkpoint["recipe"] = as_recorded(self.recipe)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a state belongs to this network and recipe.

        Raises:
            CheckpointError: it does not.
        """
        recipes = (checkpoint.get("recipe", {}), as_recorded(self.recipe))
        changed = changed_settings(*({"recipe": recipe} for recipe in recipes))
        before, now = changed.get("epochs", (0, 0))
        if before < now:  # the run goes on for longer
            del changed["epochs"]
        if _shapes(checkpoint["state_dict"]) != _shapes(self.state_dict()):
            other = "network"
        elif changed:
            other = f"recipe ({describe_changes(changed)})"
        else:
            return
        raise CheckpointError(
            f"{STATE_FILE} belongs to another {other}.",
            "Restore the run's own file, or start again in another --output.",
        )

    def _diverged(self, what: str, loss: Tensor) -> TrainingError:
        rate = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
        fp32 = "" if self.trainer.precision == "32-true" else " or with --precision fp32"
        saved = describe_state(Path(self.trainer.default_root_dir), self.current_epoch)
        return TrainingError(
            f"The {what} is {loss.item()} at step {self.global_step} "
            f"(epoch {self.current_epoch + 1}), with a learning rate of {rate:.3g}. {saved}",
            f"Train in another --output with a lower --learning-rate{fp32}.",
        )


def shrink(images: Tensor) -> Tensor:
    """Scale images ``[N, 3, H, W]`` to 3/4 of their size, which is 9/16 of the work."""
    smaller = F.interpolate(images, scale_factor=0.75, mode="bilinear", antialias=True)
    return smaller.contiguous(memory_format=torch.channels_last)


def learning_rate(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """Return a recipe's schedule.

    Args:
        recipe: the recipe.
        steps: number of optimiser steps of the whole run.

    Returns:
        A function that maps a step, from 0, to its learning rate relative to the recipe's.
    """
    return _SCHEDULES[recipe.schedule](recipe, steps)


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


def _shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}
