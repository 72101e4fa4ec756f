"""Runs, read back from their folders without torch.

A run's folder holds ``run.json`` (settings), ``environment.json`` (versions and machine),
``log.csv`` (a row per epoch), and in the end ``metrics.json`` and the checkpoint.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import shlex
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from delugeserve.artifacts.typed_json import from_json
from delugeserve.errors import ResumeError, UsageError
from delugeserve.training.config import Measured, RunConfig
from delugeserve.training.recipes import Recipe

CONFIG_FILE = "run.json"
ENVIRONMENT_FILE = "environment.json"
LOG_FILE = "log.csv"
METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class Epoch:
    """One row of a run's log.

    Attributes:
        epoch: its number, from 1.
        learning_rate: of its last optimiser step.
        train_loss: mean over its training images.
        val_loss: mean over the watched images after the epoch, in fp32: those of the validation
            split, or of the test split where no training images are held out.
        val_error: top-1 error on the same images, in percent, in fp32.
        seconds: how long the epoch took.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    val_loss: float
    val_error: float
    seconds: float


@dataclass(frozen=True)
class RunRecord:
    """One run, as read from its folder.

    Attributes:
        name: the folder's name.
        path: the folder.
        status: an ``unfinished`` run was interrupted or is still in progress.
        reason: for a damaged run, which file cannot be read and why; all below is empty then.
        config: the settings, see :class:`delugeserve.training.config.RunConfig`.
        environment: versions and machine; empty if the run did not write them.
        epochs: the log.
        metrics: the final evaluation; empty if the run is not finished or did not write it.
    """

    name: str
    path: Path
    status: Literal["finished", "unfinished", "damaged"]
    reason: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    epochs: Sequence[Epoch] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def network_name(self) -> str | None:
        """The name of the trained network; None if the run is damaged."""
        return self.config.get("name") or self.config.get("model")

    @property
    def top1_error(self) -> float | None:
        """Top-1 error in percent: of the final evaluation, or before it of the kept epoch."""
        kept = self.best or (self.epochs[-1] if self.epochs else None)
        error: float | None = self.metrics.get("top1_error", kept and kept.val_error)
        return error

    @property
    def best(self) -> Epoch | None:
        """The epoch whose network is kept: the first with the lowest validation error.

        None without a validation split, without a complete epoch, or if the initial checkpoint was
        better than all epochs.
        """
        if self.watched == "test" or self.metrics.get("epoch") == 0:
            return None
        return min(self.epochs, key=lambda epoch: epoch.val_error, default=None)

    @property
    def watched(self) -> Measured:
        """The split that ``val_loss`` and ``val_error`` of the epochs are of."""
        return (
            "validation" if self.config.get("task") or self.config.get("val_fraction") else "test"
        )

    @property
    def measured(self) -> Measured:
        """The split that :attr:`top1_error` is of."""
        split: Measured = self.metrics.get("split", "test") if self.metrics else self.watched
        return split

    @property
    def seconds(self) -> float:
        """Total time of all epochs."""
        return sum(epoch.seconds for epoch in self.epochs)

    @property
    def seconds_per_epoch(self) -> float | None:
        """Median time of an epoch, which a slow first epoch does not change."""
        return statistics.median(e.seconds for e in self.epochs) if self.epochs else None

    @property
    def settings(self) -> dict[str, Any]:
        """Config, recipe and environment in one flat mapping, to compare runs.

        The command line is left out: it repeats the others, and always names another folder. So
        does the network's name, which is by default the folder's.
        """
        settings = {**_flatten(self.config), **self.environment}
        for name in ("command", "name"):
            settings.pop(name, None)
        return settings


def read_runs(folder: Path) -> list[RunRecord]:
    """Read the runs in a folder, sorted by name, or the one run that the folder is.

    Raises:
        UsageError: there is no such folder, or it holds no runs.
    """
    if not folder.is_dir():
        raise UsageError(
            f"There is no folder '{folder}'.",
            "Give a run folder or a folder of runs, or train a model: "
            "delugeserve train --model delugenet38 --data DATA --output RUN",
        )
    if (folder / CONFIG_FILE).is_file():
        return [read_run(folder)]
    runs = sorted(file.parent for file in folder.glob(f"*/{CONFIG_FILE}"))
    if not runs:
        raise UsageError(
            f"{folder} holds no runs.",
            "Start one with: delugeserve train --model delugenet38 --data DATA --output "
            f"{shlex.quote(str(folder / 'RUN'))}",
        )
    return [read_run(run) for run in runs]


def read_run(folder: Path) -> RunRecord:
    """Read one run. If a file cannot be read, its status is ``damaged``; nothing is raised."""
    name = folder.resolve().name
    try:
        config = _read_object(folder / CONFIG_FILE, _is_config)
        environment = _read_object(folder / ENVIRONMENT_FILE)
        metrics = _read_object(folder / METRICS_FILE, _is_metrics)
        epochs = _read_log(folder / LOG_FILE)
    except _DamageError as damage:
        return RunRecord(name, folder, "damaged", str(damage))
    # A run that was given more epochs still has the checkpoint of the first ones.
    extended = config.get("extended")
    checkpoint = folder / f"{config.get('name') or config.get('model')}.safetensors"
    finished = metrics or (checkpoint.is_file() and not extended)
    return RunRecord(
        name,
        folder,
        "finished" if finished else "unfinished",
        config=config,
        environment=environment,
        epochs=epochs,
        metrics=metrics,
    )


def read_config(record: RunRecord) -> RunConfig:
    """Return the settings of a run, to resume it.

    Raises:
        UsageError: the run is damaged, or was started by a later version with other settings.
    """
    if record.reason is not None:
        raise UsageError(
            f"Cannot resume {record.path}: {record.reason}.", "Start again in another --output."
        )
    try:
        return from_json(RunConfig, dict(record.config))
    except ValueError as error:
        raise UsageError(
            f"Cannot resume {record.path}: its {CONFIG_FILE} has settings that this version does"
            f" not know ({error}).",
            "Resume it with the version that environment.json names.",
        ) from error


def compare_settings(records: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Find the settings in which runs differ.

    Returns:
        The values of each such setting, in the runs' order; None where a run has none.
    """
    settings = [record.settings for record in records]
    names = dict.fromkeys(name for values in settings for name in values)
    rows = {name: [values.get(name) for values in settings] for name in names}
    return {name: row for name, row in rows.items() if any(value != row[0] for value in row)}


def as_recorded(values: RunConfig | Recipe) -> dict[str, Any]:
    """Return settings as they are read back from a JSON file."""
    return _as_json(dataclasses.asdict(values))


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Return settings in one flat mapping, for experiment trackers."""
    settings = _flatten(as_recorded(config))
    settings.pop("class_names", None)
    return settings


def changed_settings(
    before: Mapping[str, Any], now: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Find the settings in which two runs differ.

    Args:
        before: a run's config as read from its file, with the recipe. A missing setting has its
            default.
        now: the other's config.

    Returns:
        By name, the values in ``before`` and in ``now``; None where there is none.
    """
    old, new = _flatten(before), _flatten(now)
    pairs = {name: (old.get(name), new.get(name)) for name in {**old, **new}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def describe_changes(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """Describe a result of :func:`changed_settings`: ``seed 0, now 5; epochs 30, now 3``."""
    return "; ".join(f"{name} {old}, now {new}" for name, (old, new) in changed.items())


def extend(record: RunRecord, config: RunConfig) -> RunConfig:
    """Return the settings of a run that is resumed, with what it was started with noted.

    Args:
        record: the run.
        config: its settings, perhaps with more epochs.
    """
    before = read_config(record)
    extended = before.extended
    if config.recipe.epochs > before.recipe.epochs:
        extended += (before.recipe.epochs,)
    return dataclasses.replace(config, extended=extended)


def check_settings(record: RunRecord, config: RunConfig, *, more_epochs: bool = False) -> None:
    """Check that a run to resume was started with these settings.

    Args:
        record: the run.
        config: the settings to resume it with.
        more_epochs: whether it may have more epochs than it was started with.

    Raises:
        ResumeError: it was started with others.
    """
    changed = changed_settings(record.config, as_recorded(config))
    for name in ("extended", "logger"):
        changed.pop(name, None)
    before, now = changed.get("epochs", (0, 0))
    if more_epochs and now > before:
        del changed["epochs"]
    if changed:
        raise ResumeError(record.path, changed)


def _flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return config, recipe and task in one mapping; settings of later versions have defaults."""
    recipe = _complete(config.get("recipe", {}), Recipe)
    whole = _complete(config, RunConfig)
    task = dict(whole.pop("task", None) or {})
    for name in ("name", "title"):  # the network's
        task.pop(name, None)
    return {**whole, "recipe": recipe.pop("name", None), **recipe, **task}


def _complete(values: Mapping[str, Any], kind: type[RunConfig] | type[Recipe]) -> dict[str, Any]:
    missing = {k: v for k, v in _defaults(kind).items() if k not in values}
    return {**values, **missing}


def _defaults(kind: type[RunConfig] | type[Recipe]) -> dict[str, Any]:
    defaults = {one.name: one.default for one in fields(kind)}
    return _as_json({k: v for k, v in defaults.items() if v is not dataclasses.MISSING})


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    recorded: dict[str, Any] = json.loads(json.dumps(values))
    return recorded


class _DamageError(Exception):
    """A file of a run that cannot be read."""


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise _DamageError(f"{path.name} cannot be read ({error})") from error


def _read_object(
    path: Path, is_whole: Callable[[dict[str, Any]], bool] = lambda _: True
) -> dict[str, Any]:
    """Read a JSON object; a missing file is an empty one."""
    with _naming(path):
        value = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if not isinstance(value, dict) or not is_whole(value):
            raise ValueError("not written by 'delugeserve train'")
        return value


def _is_config(value: dict[str, Any]) -> bool:
    model, recipe = value.get("model"), value.get("recipe")
    return (
        isinstance(model, str)
        and isinstance(recipe, dict)
        and isinstance(recipe.get("name"), str)
        and isinstance(recipe.get("epochs"), int)
    )


def _is_metrics(value: dict[str, Any]) -> bool:
    return not value or isinstance(value.get("top1_error"), float)


def _read_log(path: Path) -> tuple[Epoch, ...]:
    if not path.exists():
        return ()
    with _naming(path):
        text = path.read_text(encoding="utf-8")
        # While the run is in progress, the last line may be half written.
        whole = text[: text.rfind("\n") + 1]
        return tuple(_parse_epoch(row) for row in csv.DictReader(whole.splitlines()))


def _parse_epoch(row: Mapping[str, str]) -> Epoch:
    columns = [column.name for column in fields(Epoch)]
    if missing := [name for name in columns if row.get(name) is None]:
        raise ValueError(f"a row lacks {missing[0]}")
    epoch, *figures = (row[name] for name in columns)
    return Epoch(int(epoch), *map(float, figures))
