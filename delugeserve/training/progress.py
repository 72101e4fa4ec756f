"""Progress of epochs and batches, reported to the protocol that all long work uses."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from delugeserve.system.progress import Progress
from delugeserve.training.config import Measured

_NOTE_INTERVAL_S = 0.2  # to read a loss, the processor waits for the GPU


class ReportProgress(Callback):
    """Reports each epoch as two stages, training and measuring, whose steps are batches.

    Args:
        progress: receives the stages.
        watched: the split that is measured after every epoch.
    """

    def __init__(self, progress: Progress, watched: Measured = "test") -> None:
        self._progress = progress
        self._measure = "test epoch" if watched == "test" else "validate epoch"
        self._note = ""
        self._noted = 0.0
        self._started: float | None = None  # the epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Begin the training stage of an epoch; after the first, with the time that is left."""
        now = time.monotonic()
        left = ""
        if self._started is not None and trainer.max_epochs is not None:
            epochs = trainer.max_epochs - trainer.current_epoch
            left = f", {_describe((now - self._started) * epochs)} left"
        self._started = now
        self._progress.stage(_name("epoch", trainer, left), _count(trainer.num_training_batches))

    def on_train_batch_end(
        self,
        _trainer: pl.Trainer,
        _module: pl.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        *_: Any,
    ) -> None:
        """Count a batch, with a recent loss as the note."""
        loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        now = time.monotonic()
        if loss is not None and now - self._noted >= _NOTE_INTERVAL_S:
            self._note, self._noted = f"loss {float(loss):.3f}", now
        self._progress.advance(note=self._note)

    def on_validation_epoch_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Begin the stage that measures the network after an epoch."""
        self._progress.stage(_name(self._measure, trainer), _count(*trainer.num_val_batches))

    def on_validation_batch_end(self, *_: Any) -> None:
        """Count a batch."""
        self._progress.advance()


def _name(what: str, trainer: pl.Trainer, left: str = "") -> str:
    return f"{what} {trainer.current_epoch + 1}/{trainer.max_epochs}{left}, batch"


def _describe(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _count(batches: float) -> int | None:
    return None if batches == float("inf") else int(batches)
