"""The run's log: one CSV row an epoch, kept across interruptions, and a line for the person."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl

COLUMNS = ("epoch", "learning_rate", "train_loss", "val_loss", "val_error", "seconds")


class EpochLog(pl.Callback):
    """Appends ``log.csv`` after every epoch.

    Lightning's own CSV logger starts its file anew when a run is resumed; this one keeps the rows
    of the epochs that stand and drops those that will be trained again.

    Args:
        path: the CSV file.
        say: prints one line.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.path = path
        self.say = say
        self._started = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drop the rows of epochs that are about to be trained again."""
        kept = [row for row in read_log(self.path) if int(row["epoch"]) <= trainer.current_epoch]
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(kept)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's clock."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the epoch's row and say it."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {
            "epoch": trainer.current_epoch + 1,
            "learning_rate": f"{trainer.optimizers[0].param_groups[0]['lr']:.6g}",
            "train_loss": f"{metrics['train_loss']:.4f}",
            "val_loss": f"{metrics['val_loss']:.4f}",
            "val_error": f"{metrics['val_error']:.2f}",
            "seconds": f"{time.perf_counter() - self._started:.1f}",
        }
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS).writerow(row)
        self.say(
            f"epoch {row['epoch']:>3}/{trainer.max_epochs}  loss {row['train_loss']}  "
            f"test error {row['val_error']} %  rate {row['learning_rate']}  {row['seconds']} s"
        )


def read_log(path: Path) -> list[dict[str, str]]:
    """Read a run's log; a missing file is an empty log."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
