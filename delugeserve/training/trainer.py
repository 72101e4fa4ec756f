"""Lightning's trainer, set up for a run."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint

from delugeserve.system.progress import Progress
from delugeserve.training.averaging import MovingAverage
from delugeserve.training.best import KeepBest, Patience, Write
from delugeserve.training.config import Measured, Precision, RunConfig
from delugeserve.training.distributed import World
from delugeserve.training.freezing import FreezeParts
from delugeserve.training.log import EpochLog
from delugeserve.training.loggers import build_logger
from delugeserve.training.progress import ReportProgress
from delugeserve.training.saving import STATE_FILE, AtomicCheckpointIO

_PRECISIONS: dict[Precision, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


def build_trainer(
    config: RunConfig,
    output: Path,
    world: World,
    progress: Progress,
    stop: Callback,
    *,
    watched: Measured,
    write_best: Write,
    start: float | None = None,
) -> pl.Trainer:
    """Return a trainer that logs and saves every epoch of a run.

    Args:
        config: the run's settings.
        output: the run's folder.
        world: the processes that train together.
        progress: receives epochs and batches, in the first process.
        stop: ends training from outside.
        watched: the split that is measured after every epoch. Only of the validation split the best
            epoch is kept: it would be chosen on the test images otherwise.
        write_best: writes the network of the best epoch.
        start: validation error of the initial network, if that may stay the best; see
            :class:`~delugeserve.training.best.KeepBest`.
    """
    average = MovingAverage(config.recipe.ema_decay) if config.recipe.ema_decay else None
    # The log comes before the state: a kill between the two repeats a row, and never loses one.
    callbacks: list[Callback] = [
        EpochLog(output, watched),
        ModelCheckpoint(output, Path(STATE_FILE).stem, monitor=None, enable_version_counter=False),
    ]
    if world.is_first:
        callbacks.append(ReportProgress(progress, watched))
    if watched == "validation":
        callbacks.append(
            KeepBest(write_best, average, start=start)
        )  # after the state, which names the epoch
        if config.recipe.patience:
            callbacks.append(Patience(config.recipe.patience))
    if average is not None:
        callbacks.append(average)
    head_first = 1.0 if config.freeze else config.recipe.head_first
    if head_first or config.recipe.freeze_norms:
        callbacks.append(FreezeParts(head_first, norms=config.recipe.freeze_norms))
    callbacks.append(stop)
    logger = build_logger(config, output) if world.is_first else None
    if logger is not None:
        callbacks.append(LearningRateMonitor("step"))
    return pl.Trainer(
        accelerator="auto",
        devices=world.local_size,
        num_nodes=world.size // world.local_size,
        strategy="ddp" if world.size > 1 else "auto",
        precision=_PRECISIONS[config.precision],
        plugins=[AtomicCheckpointIO()],
        deterministic=config.deterministic,
        accumulate_grad_batches=config.accumulate,
        max_epochs=config.recipe.epochs,
        callbacks=callbacks,
        logger=logger or False,
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=output,
        use_distributed_sampler=False,
    )


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's remarks about settings that are deliberate here."""
    loggers = [
        logging.getLogger(f"lightning.pytorch{name}") for name in ("", ".utilities.rank_zero")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
