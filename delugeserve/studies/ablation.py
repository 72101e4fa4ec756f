"""DelugeNet against its ResNet-like baselines at equal budget, over several seeds (table 2).

Every network is trained with every seed as a run like any other, in a folder of its own; the table
is made from what those folders hold. Only :func:`train_missing` needs torch.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from delugeserve.errors import UsageError
from delugeserve.networks.flops import count
from delugeserve.system.files import atomic_write
from delugeserve.training.records import (
    CONFIG_FILE,
    RunRecord,
    changed_settings,
    check_same,
    read_run,
    read_runs,
)
from delugeserve.zoo import MODELS, ModelSpec, find_baselines

if TYPE_CHECKING:
    from delugeserve.training.config import RunConfig

RESULT_FILE = "ablation.json"

# 97.5th percentiles of Student's t distribution with 1, 2, ... degrees of freedom.
_T_95 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
)

Verdict = Literal["errs less", "errs more", "within the noise", "too few seeds"]


@dataclass(frozen=True)
class Trial:
    """One network, one seed.

    Attributes:
        spec: the network.
        seed: of the run.
        folder: of the run, ``<output>/<model>-seed<seed>``.
    """

    spec: ModelSpec
    seed: int
    folder: Path


@dataclass(frozen=True)
class NetworkResult:
    """What the finished runs of one network come to.

    Attributes:
        name: of the model.
        params: number of trainable parameters.
        flops: floating-point operations for one image.
        errors: test error in percent by seed.
        mean: of the errors; None if there are none.
        deviation: their sample standard deviation; None for fewer than two.
        published_error: the paper's, in percent, where the model is the paper's.
        published_params_m: the paper's parameters, in millions, likewise.
    """

    name: str
    params: int
    flops: int
    errors: Mapping[int, float]
    mean: float | None
    deviation: float | None
    published_error: float | None
    published_params_m: float | None


@dataclass(frozen=True)
class Difference:
    """How far a baseline's error lies above DelugeNet's, with the same seeds.

    Attributes:
        name: the baseline's.
        seeds: that both have finished.
        mean: of the differences in percentage points, positive where DelugeNet errs less; None if
            there is no such seed.
        interval: 95 % confidence interval of ``mean``, by Student's t over the pairs; None for
            fewer than two.
        published: the paper's difference, where both models are the paper's.
    """

    name: str
    seeds: tuple[int, ...]
    mean: float | None
    interval: tuple[float, float] | None
    published: float | None

    @property
    def verdict(self) -> Verdict:
        """What the interval says of DelugeNet, as far as it says anything."""
        if self.interval is None:
            return "too few seeds"
        low, high = self.interval
        return "errs less" if low > 0 else "errs more" if high < 0 else "within the noise"


@dataclass(frozen=True)
class Ablation:
    """A DelugeNet and its baselines, compared.

    Attributes:
        settings: what all runs have in common: recipe, precision, data, limit, ...
        networks: the DelugeNet first.
        differences: of each baseline to it, in the same order.
        finished: the runs it is made from.
        left_out: names of runs that are unfinished or damaged.
    """

    settings: Mapping[str, Any]
    networks: tuple[NetworkResult, ...]
    differences: tuple[Difference, ...]
    finished: tuple[RunRecord, ...]
    left_out: tuple[str, ...]


def compared_networks(spec: ModelSpec) -> tuple[ModelSpec, ...]:
    """The networks of an ablation: a DelugeNet and, behind it, its baselines.

    Raises:
        UsageError: the model is a baseline itself, or the registry has none of its size.
    """
    networks = (spec, *find_baselines(spec))
    if spec.baseline or len(networks) == 1:
        fitting = [model.name for model in MODELS.values() if find_baselines(model)]
        problem = "is a baseline itself" if spec.baseline else "has no baselines"
        raise UsageError(f"'{spec.name}' {problem}.", f"Choose one of: {', '.join(fitting)}.")
    return networks


def plan_trials(networks: Sequence[ModelSpec], num_seeds: int, output: Path) -> tuple[Trial, ...]:
    """Every network with the first seed, then with the next: what is there can be compared."""
    return tuple(
        Trial(spec, seed, output / _run_name(spec.name, seed))
        for seed in range(num_seeds)
        for spec in networks
    )


def _run_name(model: str, seed: int | None) -> str:
    return f"{model}-seed{seed}"


def train_missing(
    trials: Sequence[Trial],
    config: RunConfig,
    *,
    progress: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Train what is not finished yet; what was interrupted goes on from its last whole epoch.

    Args:
        trials: in the order in which they are trained.
        config: of all runs, but for model and seed.
        progress: show a progress bar.
        say: prints one line.

    Raises:
        UsageError: a folder holds a run that was asked otherwise, or a damaged one; nothing is
            trained then.
        DatasetError: the images cannot be read.
        TrainingError: a run cannot go on.
    """
    from delugeserve.training.run import train

    asked = [
        dataclasses.replace(config, model=trial.spec.name, seed=trial.seed) for trial in trials
    ]
    for trial, wanted in zip(trials, asked, strict=True):
        _check_run(trial, wanted)
    for number, (trial, wanted) in enumerate(zip(trials, asked, strict=True), 1):
        record = _read(trial)
        title = f"run {number} of {len(trials)}: {trial.spec.name}, seed {trial.seed}"
        if record is not None and record.status == "finished":
            say(f"{title}: finished, test error {record.top1_error:.2f} %")
            continue
        seconds = _estimate_seconds(trials, config.recipe.epochs)
        left = f"; about {timedelta(seconds=round(seconds))} left" if seconds else ""
        say(title + left)
        train(
            trial.spec,
            wanted,
            trial.folder,
            resume=record is not None,
            progress=progress,
            say=say,
        )


def _read(trial: Trial) -> RunRecord | None:
    return read_run(trial.folder) if (trial.folder / CONFIG_FILE).is_file() else None


def _check_run(trial: Trial, config: RunConfig) -> None:
    record = _read(trial)
    if record is None:
        return
    if record.status == "damaged":
        raise UsageError(
            f"The run in {trial.folder} is damaged: {record.reason}.",
            "Remove the folder to train it anew.",
        )
    check_same(record, config)


def _estimate_seconds(trials: Sequence[Trial], epochs: int) -> float | None:
    """How long the epochs that are left will take, by those so far; None before the first."""
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


def read_ablation(output: Path, spec: ModelSpec | None = None) -> Ablation:
    """Read the runs in an ablation's folder and compare them.

    Args:
        output: the folder.
        spec: the DelugeNet; None if the folder holds the runs of a single one.

    Raises:
        UsageError: there is no finished run, or runs were not asked the same.
    """
    # Other runs may lie there too.
    runs = [
        run
        for run in read_runs(output)
        if run.status == "damaged"
        or run.name == _run_name(run.config["model"], run.config.get("seed"))
    ]
    networks = compared_networks(spec or _find_delugenet(output, runs))
    names = [network.name for network in networks]
    finished = tuple(
        run for run in runs if run.status == "finished" and run.config["model"] in names
    )
    left_out = tuple(
        run.name
        for run in runs
        if run.status != "finished" and run.name.rpartition("-seed")[0] in names
    )
    if not finished:
        raise UsageError(
            f"No run in {output} is finished.", "Leave --report-only away to train them."
        )
    _check_budget(output, finished)
    results = tuple(_summarise(network, finished) for network in networks)
    common = {
        key: value for key, value in finished[0].config.items() if key not in ("model", "seed")
    }
    differences = tuple(_compare(results[0], baseline) for baseline in results[1:])
    return Ablation(common, results, differences, finished, left_out)


def _find_delugenet(output: Path, runs: Sequence[RunRecord]) -> ModelSpec:
    names = {run.config.get("model") for run in runs}
    found = [spec for name, spec in MODELS.items() if name in names and find_baselines(spec)]
    if len(found) != 1:
        raise UsageError(
            f"{output} holds runs of {len(found)} DelugeNets that have baselines.",
            "Say which one with --model.",
        )
    return found[0]


def _check_budget(output: Path, runs: Sequence[RunRecord]) -> None:
    first = runs[0]
    for run in runs:
        changed = [
            f"{name} {one} in {first.name}, {other} in {run.name}"
            for name, (one, other) in changed_settings(first.config, run.config).items()
            if name not in ("model", "seed")
        ]
        if changed:
            raise UsageError(
                f"The runs in {output} differ: {'; '.join(changed)}.",
                "Only runs of one budget can be compared; train them anew in another --output.",
            )


def _summarise(spec: ModelSpec, runs: Sequence[RunRecord]) -> NetworkResult:
    errors = {
        int(run.config["seed"]): run.top1_error
        for run in runs
        if run.config["model"] == spec.name and run.top1_error is not None
    }
    values = list(errors.values())
    complexity = count(spec)
    return NetworkResult(
        spec.name,
        complexity.params,
        complexity.flops,
        dict(sorted(errors.items())),
        statistics.fmean(values) if values else None,
        statistics.stdev(values) if len(values) > 1 else None,
        spec.published.top1_error if spec.published else None,
        spec.published.params_m if spec.published else None,
    )


def _compare(delugenet: NetworkResult, baseline: NetworkResult) -> Difference:
    seeds = tuple(seed for seed in delugenet.errors if seed in baseline.errors)
    differences = [baseline.errors[seed] - delugenet.errors[seed] for seed in seeds]
    paper = None
    if delugenet.published_error is not None and baseline.published_error is not None:
        paper = baseline.published_error - delugenet.published_error
    return Difference(
        baseline.name,
        seeds,
        statistics.fmean(differences) if differences else None,
        t_interval(differences),
        paper,
    )


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % confidence interval of a mean (Student's t); None for fewer than two values.

    Beyond 21 values it is a little wider than it had to be.
    """
    if len(values) < 2:
        return None
    t = _T_95[min(len(values) - 1, len(_T_95)) - 1]
    mean = statistics.fmean(values)
    half = t * statistics.stdev(values) / len(values) ** 0.5
    return mean - half, mean + half


def describe(ablation: Ablation) -> dict[str, Any]:
    """Everything that is measured, as JSON has it."""
    return {
        "model": ablation.networks[0].name,
        "settings": dict(ablation.settings),
        "networks": [dataclasses.asdict(network) for network in ablation.networks],
        "differences": [
            dataclasses.asdict(one) | {"verdict": one.verdict} for one in ablation.differences
        ],
        "left_out": ablation.left_out,
    }


def write_ablation(ablation: Ablation, output: Path) -> Path:
    """Write ``ablation.json``, beside its place first, then renamed into it.

    Raises:
        UsageError: it cannot be written.
    """
    path = output / RESULT_FILE
    try:
        with atomic_write(path) as beside:
            beside.write_text(json.dumps(describe(ablation), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}.", "Free some space.") from error
    return path
