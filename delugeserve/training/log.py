"""The run's log: one CSV row per epoch, kept across interruptions, and one log line."""

from __future__ import annotations

import csv
import logging
import time
from pathlib import Path
from typing import Any, TextIO

import lightning.pytorch as pl

from delugeserve.system.files import atomic_write
from delugeserve.training.config import Measured
from delugeserve.training.records import LOG_FILE, Epoch, read_run
from delugeserve.training.saving import MARK, saving

_log = logging.getLogger(__name__)

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
    of complete epochs and drops those that are trained again.

    Args:
        folder: the run's folder.
        watched: the split that is measured after every epoch.
    """

    def __init__(self, folder: Path, watched: Measured = "test") -> None:
        self.folder = folder
        self._watched = watched
        self._started = 0.0
        self._rate = 0.0

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

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        """Note the step's learning rate: after the step the schedule has set the next one's."""
        self._rate = optimizer.param_groups[0]["lr"]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the epoch's row, and log it.

        Raises:
            TrainingError: the log cannot be written.
        """
        if not trainer.is_global_zero:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        epoch = Epoch(
            epoch=trainer.current_epoch + 1,
            learning_rate=self._rate,
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
        _log.info(
            "epoch %s/%d  loss %s  %s error %s %%  rate %.3g  %s s",
            row["epoch"],
            trainer.max_epochs,
            row["train_loss"],
            self._watched,
            row["val_error"],
            epoch.learning_rate,
            row["seconds"],
        )


def _write(epoch: Epoch, file: TextIO) -> dict[str, str]:
    row = {name: format(getattr(epoch, name), form) for name, form in _FORMATS.items()}
    csv.writer(file).writerow(row.values())
    return row
