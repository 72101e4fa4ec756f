"""Progress of epochs and batches, reported to the protocol that all long work uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from delugeserve.system.progress import Progress


class ReportProgress(Callback):
    """Reports each epoch as two stages, training and testing, whose steps are batches.

    Args:
        progress: receives the stages.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_train_epoch_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Begin the training stage of an epoch."""
        self._progress.stage(_name("epoch", trainer), _count(trainer.num_training_batches))

    def on_train_batch_end(
        self,
        _trainer: pl.Trainer,
        _module: pl.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        *_: Any,
    ) -> None:
        """Count a batch, with its loss as the note."""
        loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        self._progress.advance(note="" if loss is None else f"loss {float(loss):.3f}")

    def on_validation_epoch_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Begin the test stage of an epoch."""
        self._progress.stage(_name("test epoch", trainer), _count(*trainer.num_val_batches))

    def on_validation_batch_end(self, *_: Any) -> None:
        """Count a batch."""
        self._progress.advance()


def _name(what: str, trainer: pl.Trainer) -> str:
    return f"{what} {trainer.current_epoch + 1}/{trainer.max_epochs}, batch"


def _count(batches: float) -> int | None:
    return None if batches == float("inf") else int(batches)
