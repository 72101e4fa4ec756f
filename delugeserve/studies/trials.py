"""The runs of an ablation: every network with every seed, in folders of their own."""

from __future__ import annotations

import dataclasses
import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from delugeserve.errors import BusyFolderError, UnknownNameError, UsageError
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve.training.records import CONFIG_FILE, RunRecord, check_settings, read_run
from delugeserve.zoo import MODELS, ModelSpec, find_baselines

if TYPE_CHECKING:
    from delugeserve.training.config import RunConfig

_log = logging.getLogger(__name__)


Contrast = Literal["1x1", "3x3", "fixed"]
"""What a DelugeNet is compared with: a baseline, or itself with fixed cross-layer weights."""

CONTRASTS: tuple[Contrast, ...] = get_args(Contrast)
PAPERS_CONTRASTS: tuple[Contrast, ...] = ("1x1", "3x3")


@dataclass(frozen=True)
class Variant:
    """One of the networks of an ablation.

    Attributes:
        name: the model's name, with ``_fixed`` if its cross-layer weights are fixed.
        spec: the network.
        fixed_sums: whether the cross-layer weights keep their initial value.
    """

    name: str
    spec: ModelSpec
    fixed_sums: bool = False

    def is_variant_of(self, config: Mapping[str, Any]) -> bool:
        """Whether a run with this config, as read from its file, trained this network."""
        return (config.get("model"), config.get("fixed_sums", False)) == (
            self.spec.name,
            self.fixed_sums,
        )


@dataclass(frozen=True)
class Trial:
    """One network, one seed.

    Attributes:
        variant: the network.
        seed: the run's seed.
        folder: the run's folder, ``<output>/<variant>-seed<seed>``.
    """

    variant: Variant
    seed: int
    folder: Path


def parse_contrasts(text: str) -> tuple[Contrast, ...]:
    """Parse a list such as ``3x3,fixed``.

    Raises:
        UnknownNameError: there is no such contrast.
        UsageError: the list is empty.
    """
    names = dict.fromkeys(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        if name not in CONTRASTS:
            raise UnknownNameError("comparison", name, CONTRASTS)
    if not names:
        raise UsageError(
            "An ablation needs something to compare with.", f"Use one of: {', '.join(CONTRASTS)}."
        )
    return tuple(contrast for contrast in CONTRASTS if contrast in names)


def compared_networks(
    spec: ModelSpec, against: Sequence[Contrast] = PAPERS_CONTRASTS
) -> tuple[Variant, ...]:
    """Return the networks of an ablation: a DelugeNet, then what it is compared with.

    Raises:
        UsageError: the model is a baseline itself, or there are none of its size.
    """
    baselines = {other.architecture.baseline: other for other in find_baselines(spec)}
    if not baselines:
        fitting = [model.name for model in MODELS.values() if find_baselines(model)]
        problem = "is a baseline itself" if spec.architecture.baseline else "has no baselines"
        raise UsageError(f"'{spec.name}' {problem}.", f"Choose one of: {', '.join(fitting)}.")
    networks = [Variant(spec.name, spec)]
    for contrast in against:
        if contrast == "fixed":
            networks.append(Variant(f"{spec.name}_fixed", spec, fixed_sums=True))
        else:
            networks.append(Variant(baselines[contrast].name, baselines[contrast]))
    return tuple(networks)


def plan_trials(networks: Sequence[Variant], num_seeds: int, output: Path) -> tuple[Trial, ...]:
    """Return every network with the first seed, then with the next, and so on.

    In this order the networks can be compared whenever the ablation is interrupted.
    """
    return tuple(
        Trial(variant, seed, output / run_name(variant.name, seed))
        for seed in range(num_seeds)
        for variant in networks
    )


def run_name(variant: str, seed: int | None) -> str:
    """Return the name of the folder of one network's run with one seed."""
    return f"{variant}-seed{seed}"


def is_run_of(run: str, variant: str) -> bool:
    """Whether a folder's name is that of a run of a network."""
    return run.rpartition("-seed")[0] == variant


def train_missing(
    trials: Sequence[Trial], config: RunConfig, *, progress: Progress = NO_PROGRESS
) -> None:
    """Train what is not finished yet; interrupted runs continue from their last complete epoch.

    Several processes may share the trials: each passes over what another one is training.

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
        dataclasses.replace(
            config,
            model=trial.variant.spec.name,
            fixed_sums=trial.variant.fixed_sums,
            seed=trial.seed,
        )
        for trial in trials
    ]
    for trial, own in zip(trials, configs, strict=True):
        _check_run(trial, own)
    for number, (trial, own) in enumerate(zip(trials, configs, strict=True), 1):
        record = _read(trial)
        title = f"run {number} of {len(trials)}: {trial.variant.name}, seed {trial.seed}"
        if record is not None and record.status == "finished":
            _log.info("%s: finished, test error %.2f %%", title, record.top1_error)
            continue
        seconds = _estimate_seconds(trials, config.recipe.epochs)
        left = f"; about {timedelta(seconds=round(seconds))} left" if seconds else ""
        _log.info("%s%s", title, left)
        resume = record is not None
        try:
            train(trial.variant.spec, own, trial.folder, resume=resume, progress=progress)
        except BusyFolderError:
            _log.info("%s: in progress in another process", title)


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
            paces.setdefault(trial.variant.name, []).append(record.seconds_per_epoch)
    if not paces:
        return None
    means = {name: statistics.fmean(pace) for name, pace in paces.items()}
    usual = statistics.fmean(means.values())
    return sum(
        means.get(trial.variant.name, usual) * (epochs - len(record.epochs if record else ()))
        for trial, record in zip(trials, records, strict=True)
    )
