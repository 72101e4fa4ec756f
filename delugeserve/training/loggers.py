"""Experiment trackers: Lightning's loggers, beside the run's own ``log.csv``."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)

from delugeserve.errors import MissingExtraError, UsageError
from delugeserve.training.config import LoggerName, RunConfig
from delugeserve.training.records import settings_of
from delugeserve.training.saving import write_json

_log = logging.getLogger(__name__)

_PROJECT = "delugeserve"
_STARTED_FILE = "trackers.json"


def check_logger(name: LoggerName) -> None:
    """Check that a tracker's package is installed.

    Raises:
        MissingExtraError: TensorBoard is not installed.
        UsageError: W&B or MLflow is not installed.
    """
    if name in ("none", "csv") or importlib.util.find_spec(name) is not None:
        return
    if name == "tensorboard":
        raise MissingExtraError("tensorboard", "tensorboard")
    raise UsageError(
        f"--logger {name} needs the package '{name}', which is not installed.",
        f"Install it with: pip install {name}",
    )


def build_logger(config: RunConfig, output: Path) -> Logger | None:
    """Return the logger of a run, which has the run's settings; None if it has none.

    TensorBoard's and the CSV files are in the run's folder; a resumed run gets more of them.
    Weights & Biases and MLflow read their own environment variables, such as ``WANDB_MODE``,
    ``WANDB_PROJECT`` and ``MLFLOW_TRACKING_URI``. A resumed run continues theirs.

    Args:
        config: the run's settings.
        output: the run's folder.

    Raises:
        OSError: the folder cannot be written.
    """
    name = output.resolve().name
    started = _read_started(output)
    logger: Logger
    if config.logger == "csv":
        logger = CSVLogger(output, "csv")
    elif config.logger == "tensorboard":
        logger = TensorBoardLogger(output, "tensorboard", "", default_hp_metric=False)
    elif config.logger == "wandb":
        logger = _wandb(output, name, started.get("wandb"))
    elif config.logger == "mlflow":
        import mlflow

        address = mlflow.get_tracking_uri()
        logger = MLFlowLogger(_PROJECT, name, address, run_id=started.get("mlflow"))
    else:
        return None
    if config.logger != "mlflow" or config.logger not in started:  # MLflow's cannot be changed
        logger.log_hyperparams(settings_of(config))
    if config.logger in ("wandb", "mlflow"):
        write_json(output / _STARTED_FILE, started | {config.logger: logger.version})
    return logger


def _wandb(output: Path, name: str, run: str | None) -> Logger:
    import wandb

    project = os.environ.get("WANDB_PROJECT", _PROJECT)
    # Its own output would collide with the progress bar.
    settings: Any = wandb.Settings(silent=True, console="off")
    logger = _Wandb(name, output, id=run, project=project, settings=settings)
    if not logger.experiment.offline:
        _log.info("Weights & Biases: %s", logger.experiment.url)
    return logger


class _Wandb(WandbLogger):
    """Ends its run with the training: another one in the same process is a run of its own."""

    def finalize(self, status: str) -> None:
        super().finalize(status)
        self.experiment.finish()


def _read_started(output: Path) -> dict[str, str]:
    """Return the identifiers of the trackers' runs, by tracker, of a run that is resumed."""
    try:
        started: dict[str, str] = json.loads((output / _STARTED_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return started
