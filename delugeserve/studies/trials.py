"""The runs of an ablation: every network with every seed, in folders of their own."""

from __future__ import annotations

import dataclasses
import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from delugeserve.errors import UsageError
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve.training.records import CONFIG_FILE, RunRecord, check_settings, read_run
from delugeserve.zoo import MODELS, ModelSpec, find_baselines

if TYPE_CHECKING:
    from delugeserve.training.config import RunConfig

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One network, one seed.

    Attributes:
        spec: the network.
        seed: the run's seed.
        folder: the run's folder, ``<output>/<model>-seed<seed>``.
    """

    spec: ModelSpec
    seed: int
    folder: Path


def compared_networks(spec: ModelSpec) -> tuple[ModelSpec, ...]:
    """Return the networks of an ablation: a DelugeNet, then its baselines.

    Raises:
        UsageError: the model is a baseline itself, or there are none of its size.
    """
    networks = (spec, *find_baselines(spec))
    if spec.architecture.baseline or len(networks) == 1:
        fitting = [model.name for model in MODELS.values() if find_baselines(model)]
        problem = "is a baseline itself" if spec.architecture.baseline else "has no baselines"
        raise UsageError(f"'{spec.name}' {problem}.", f"Choose one of: {', '.join(fitting)}.")
    return networks


def plan_trials(networks: Sequence[ModelSpec], num_seeds: int, output: Path) -> tuple[Trial, ...]:
    """Return every network with the first seed, then with the next, and so on.

    In this order the networks can be compared whenever the ablation is interrupted.
    """
    return tuple(
        Trial(spec, seed, output / run_name(spec.name, seed))
        for seed in range(num_seeds)
        for spec in networks
    )


def run_name(model: str, seed: int | None) -> str:
    """Return the name of the folder of one network's run with one seed."""
    return f"{model}-seed{seed}"


def train_missing(
    trials: Sequence[Trial], config: RunConfig, *, progress: Progress = NO_PROGRESS
) -> None:
    """Train what is not finished yet; interrupted runs continue from their last complete epoch.

    Args:
        trials: in the order in which they are trained.
        config: the settings of all runs, except model and seed.
        progress: receives epochs and batches.

    Raises:
        UsageError: a folder holds a damaged run; nothing is trained then.
        ResumeError: a folder holds a run with other settings; nothing is trained then.
        DatasetError: the images cannot be read.
        TrainingError: a run cannot continue.
        StoppedError: SIGTERM or Ctrl-C ended a run.
    """
    from delugeserve.training.run import train

    configs = [
        dataclasses.replace(config, model=trial.spec.name, seed=trial.seed) for trial in trials
    ]
    for trial, own in zip(trials, configs, strict=True):
        _check_run(trial, own)
    for number, (trial, own) in enumerate(zip(trials, configs, strict=True), 1):
        record = _read(trial)
        title = f"run {number} of {len(trials)}: {trial.spec.name}, seed {trial.seed}"
        if record is not None and record.status == "finished":
            _log.info("%s: finished, test error %.2f %%", title, record.top1_error)
            continue
        seconds = _estimate_seconds(trials, config.recipe.epochs)
        left = f"; about {timedelta(seconds=round(seconds))} left" if seconds else ""
        _log.info("%s%s", title, left)
        train(trial.spec, own, trial.folder, resume=record is not None, progress=progress)


def _read(trial: Trial) -> RunRecord | None:
    return read_run(trial.folder) if (trial.folder / CONFIG_FILE).is_file() else None


def _check_run(trial: Trial, config: RunConfig) -> None:
    record = _read(trial)
    if record is None:
        return
    if record.status == "damaged":
        raise UsageError(
            f"The run in {trial.folder} is damaged: {record.reason}.",
            "Remove the folder to train it again.",
        )
    check_settings(record, config)


def _estimate_seconds(trials: Sequence[Trial], epochs: int) -> float | None:
    """Estimate how long the remaining epochs take; None before the first epoch."""
    records = [_read(trial) for trial in trials]
    paces: dict[str, list[float]] = {}
    for trial, record in zip(trials, records, strict=True):
        if record is not None and record.seconds_per_epoch is not None:
            paces.setdefault(trial.spec.name, []).append(record.seconds_per_epoch)
    if not paces:
        return None
    means = {name: statistics.fmean(pace) for name, pace in paces.items()}
    usual = statistics.fmean(means.values())
    return sum(
        means.get(trial.spec.name, usual) * (epochs - len(record.epochs if record else ()))
        for trial, record in zip(trials, records, strict=True)
    )
