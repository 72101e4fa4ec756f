"""The run's log: one CSV row an epoch, kept across interruptions, and a line for the person."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import lightning.pytorch as pl

from delugeserve.system.files import atomic_write
from delugeserve.training.records import LOG_FILE, Epoch, read_run
from delugeserve.training.saving import MARK, saving

_FORMATS = {
    "epoch": "d",
    "learning_rate": ".6g",
    "train_loss": ".4f",
    "val_loss": ".4f",
    "val_error": ".2f",
    "seconds": ".1f",
}


class EpochLog(pl.Callback):
    """Appends to ``log.csv`` after every epoch, in the first of the processes.

    Lightning's own CSV logger starts its file anew when a run is resumed; this one keeps the rows
    of the epochs that stand and drops those that will be trained again.

    Args:
        folder: the run's.
        say: prints one line.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.say = say
        self._started = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drop the rows of epochs that are about to be trained again.

        Raises:
            TrainingError: the log cannot be written.
        """
        if not trainer.is_global_zero:
            return
        epochs = read_run(self.folder).epochs
        with (
            saving(self.folder, trainer.current_epoch),
            atomic_write(self.folder / LOG_FILE, MARK) as beside,
            beside.open("w", newline="", encoding="utf-8") as file,
        ):
            csv.writer(file).writerow(_FORMATS)
            for epoch in epochs:
                if epoch.epoch <= trainer.current_epoch:
                    _write(epoch, file)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's clock."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the epoch's row and say it.

        Raises:
            TrainingError: the log cannot be written.
        """
        if not trainer.is_global_zero:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        epoch = Epoch(
            epoch=trainer.current_epoch + 1,
            learning_rate=trainer.optimizers[0].param_groups[0]["lr"],
            train_loss=metrics["train_loss"],
            val_loss=metrics["val_loss"],
            val_error=metrics["val_error"],
            seconds=time.perf_counter() - self._started,
        )
        with (
            saving(self.folder, trainer.current_epoch),
            (self.folder / LOG_FILE).open("a", newline="", encoding="utf-8") as file,
        ):
            row = _write(epoch, file)
        self.say(
            f"epoch {row['epoch']:>3}/{trainer.max_epochs}  loss {row['train_loss']}  "
            f"test error {row['val_error']} %  rate {row['learning_rate']}  {row['seconds']} s"
        )


def _write(epoch: Epoch, file: TextIO) -> dict[str, str]:
    row = {name: format(getattr(epoch, name), form) for name, form in _FORMATS.items()}
    csv.writer(file).writerow(row.values())
    return row
