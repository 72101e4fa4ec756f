"""The epoch with the lowest validation error: kept on disk, and the measure of early stopping.

While a run is in progress, ``best.safetensors`` is a whole checkpoint, without test errors. At the
end its network is tested, and saved under the network's name in its place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from torch import nn

from delugeserve.errors import CheckpointError
from delugeserve.networks.checkpoint import load_checkpoint
from delugeserve.training.averaging import MovingAverage
from delugeserve.training.saving import BEST_FILE

_log = logging.getLogger(__name__)

# In percent: more than float32 rounds, less than one of 50,000 images.
_ROUNDING = 1e-3

Write = Callable[[nn.Module, int, float], None]
"""Writes a network, given the number of its epoch and its validation error in percent."""


class KeepBest(Checkpoint):
    """Writes the network of the epoch with the lowest validation error.

    The file is written after the run's state, which knows the best epoch: whenever a run is killed,
    a resumed run has the file that its state names, or writes it first. Of epochs with the same
    error the first is kept.

    Args:
        write: writes a network, in the first of the processes.
        average: the moving average of the weights, if the run has one: what is measured and kept.
        start: validation error of the network before training, in percent, if it is worth keeping:
            it has been written as epoch 0 then. None for a network that knows nothing yet.

    Attributes:
        epoch: number of the best epoch, from 1; 0 for the network before training.
        error: its validation error, in percent; infinite if there is none.
    """

    def __init__(
        self, write: Write, average: MovingAverage | None = None, *, start: float | None = None
    ) -> None:
        self.epoch = 0
        self.error = float("inf") if start is None else start
        self._write, self._average = write, average
        self._is_new = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the epoch with the best one."""
        error = float(trainer.callback_metrics["val_error"])
        self._is_new = error < self.error - _ROUNDING
        if self._is_new:
            self.epoch, self.error = trainer.current_epoch + 1, error

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the network if the epoch is the best one."""
        self._write_new(trainer, pl_module)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the network of a resumed run whose last complete epoch is the best one."""
        self._write_new(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return what the run's state has of it."""
        return {"epoch": self.epoch, "error": self.error, "is_new": self._is_new}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a run's state."""
        self.epoch, self.error = state_dict["epoch"], state_dict["error"]
        self._is_new = state_dict["is_new"]

    def _write_new(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._is_new or not trainer.is_global_zero:
            return
        module = self._average.averaged if self._average else pl_module
        self._write(module.network, self.epoch, self.error)  # type: ignore[arg-type]
        self._is_new = False


class Patience(EarlyStopping):
    """Stops a run whose validation error has not improved for a number of epochs.

    A run that has stopped does not train on when it is resumed, unless it is given more epochs:
    then its patience begins anew.

    Args:
        epochs: number of epochs without improvement after which the run stops.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__("val_error", patience=epochs, mode="min", check_finite=False)
        self._max_epochs = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End a run that is resumed after it has stopped."""
        if self._max_epochs and self._max_epochs != trainer.max_epochs:
            self.wait_count = 0
        self._max_epochs = trainer.max_epochs or 0
        if self.wait_count >= self.patience:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Return what the run's state has of it."""
        return super().state_dict() | {"max_epochs": self._max_epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a run's state."""
        super().load_state_dict(state_dict)
        self._max_epochs = state_dict["max_epochs"]


def choose_network(trainer: pl.Trainer, network: nn.Module, folder: Path) -> int:
    """Load the weights of the best epoch into a network that has those of the last one.

    Args:
        trainer: the trainer, after training.
        network: the trained network.
        folder: the run's folder.

    Returns:
        The number of the epoch whose weights the network has, from 1; 0 for those before training.
    """
    last = trainer.current_epoch
    keep = next((one for one in trainer.callbacks if isinstance(one, KeepBest)), None)  # type: ignore[attr-defined]
    if keep is None or keep.error == float("inf"):
        return last
    if last < (trainer.max_epochs or 0):
        _log.info("stopped early: no lower validation error since epoch %d", keep.epoch)
    if keep.epoch != last:
        try:
            checkpoint = load_checkpoint(folder / BEST_FILE)
            problem = f"{folder / BEST_FILE} is not of epoch {keep.epoch}, the best one."
        except CheckpointError as error:
            checkpoint, problem = None, error.problem
        if checkpoint is None or checkpoint.recipe.get("epoch") != keep.epoch:
            _log.warning("%s The weights of the last epoch are saved.", problem)
            return last
        network.load_state_dict(dict(checkpoint.state))
    if keep.epoch == 0:
        _log.warning(
            "No epoch has a lower validation error than the initial checkpoint, %.2f %%: its"
            " weights are kept.",
            keep.error,
        )
        return 0
    _log.info("epoch %d has the lowest validation error: %.2f %%", keep.epoch, keep.error)
    return keep.epoch
