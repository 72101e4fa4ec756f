"""Learning curves: test error, losses and learning rate by epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from delugeserve.plotting import new_figure
from delugeserve.training.recipes import RECIPES, Recipe
from delugeserve.training.records import RunRecord, compare_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Values are drawn on a logarithmic scale if they span a factor between these: below, too few round
# values lie between them; above, some are close to zero.
_LARGEST_SPAN = 1e4
_SMALLEST_SPAN = 4.0
_MARGIN = 1.1
# First digits of the labels on a logarithmic scale, if values span less than a factor of 30.
_DIGITS = (1, 1.5, 2, 3, 5, 7)
# Fewer epochs than this have markers, and a tick each.
_FEW = 16
_LONGEST_LABEL = 60


def draw_curves(records: Sequence[RunRecord]) -> Figure:
    """Draw the learning curves of one run, or of several into the same axes.

    The title names what the runs have in common, the legend what differs.

    Args:
        records: runs; those without a complete epoch are left out.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    records = [record for record in records if record.epochs]
    figure = new_figure(10, 5.5)
    axes = figure.subplot_mosaic([["error", "loss"], ["error", "rate"]], width_ratios=[3, 2])
    for number, (record, label) in enumerate(zip(records, run_labels(records), strict=True)):
        rows = record.epochs
        epochs = [row.epoch for row in rows]
        style: dict[str, Any] = {"color": f"C{number}", "marker": epoch_marker(len(rows))}
        style["markersize"] = 4
        label = f"{label}: {record.top1_error:.2f} %" if label else f"{record.top1_error:.2f} %"
        axes["error"].plot(epochs, [row.val_error for row in rows], label=label, **style)
        if record.best:
            point = (record.best.epoch, record.best.val_error)
            axes["error"].plot(*point, "o", color=f"C{number}", fillstyle="none", markersize=9)
        axes["loss"].plot(epochs, [row.train_loss for row in rows], **style)
        axes["loss"].plot(epochs, [row.val_loss for row in rows], linestyle=":", **style)
        axes["rate"].plot(epochs, [row.learning_rate for row in rows], **style)
    watched = " or ".join(dict.fromkeys(record.watched for record in records)) or "test"
    ring = ", best epoch ringed" if any(record.best for record in records) else ""
    titles = {
        "error": f"{watched} error in percent" + ring,
        "loss": f"loss: training (solid), {watched} (dotted)",
        "rate": "learning rate",
    }
    by_steps = all(record.config["recipe"].get("schedule") == "step" for record in records)
    for name, title in titles.items():
        axes[name].set_title(title, loc="left", fontsize=10)
        axes[name].grid(alpha=0.3)
        set_scales(axes[name], linear=name == "rate" and not by_steps)
    if len(records) > 1:
        axes["error"].legend()
    for name in ("error", "rate"):
        axes[name].set_xlabel("epoch")
    figure.suptitle(_title(records), x=0.01, ha="left", fontsize=11)
    return figure


def run_labels(records: Sequence[RunRecord]) -> list[str]:
    """Return what tells each run from the others: the settings that differ, or else its name.

    A single run has an empty label.
    """
    if len(records) < 2:
        return [""] * len(records)
    differing = {
        name: row
        for name, row in compare_settings(records).items()
        if not all(name in record.environment for record in records)
    }
    labels = [
        ", ".join(
            _describe(name, row[number])
            for name, row in differing.items()
            if not _follows(record, name)
        )
        for number, record in enumerate(records)
    ]
    if len(set(labels)) < len(labels) or any(len(label) > _LONGEST_LABEL for label in labels):
        return _short_names(records)
    return labels


def set_scales(axes: Axes, *, linear: bool = False) -> None:
    """Set whole epochs, and a logarithmic scale where it suits the values.

    Args:
        axes: curves by epoch.
        linear: use a linear scale in any case.
    """
    from matplotlib import ticker

    last = max((float(np.asarray(line.get_xdata())[-1]) for line in axes.lines), default=1.0)
    if last < _FEW:
        axes.set_xlim(0.5, last + 0.5)
        axes.xaxis.set_major_locator(ticker.FixedLocator(range(1, int(last) + 1)))
    else:
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    drawn = [float(value) for line in axes.lines for value in np.asarray(line.get_ydata())]
    values = [value for value in drawn if math.isfinite(value)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    spread = low > 0 and _SMALLEST_SPAN <= high / low < _LARGEST_SPAN
    if linear or not spread:
        if low <= high / 2:  # so close to zero that zero belongs to the picture
            axes.set_ylim(bottom=0)
        return
    axes.set_yscale("log")
    digits = _DIGITS if high / low < 30 else (1,)
    axes.yaxis.set_major_locator(ticker.LogLocator(10, subs=digits, numticks=20))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.set_ylim(low / _MARGIN, high * _MARGIN)


def epoch_marker(num_epochs: int) -> str:
    """Return the marker of a curve: dots for few epochs, none for many."""
    return "o" if num_epochs < _FEW else ""


def _title(records: Sequence[RunRecord]) -> str:
    """What the runs have in common."""

    def common(values: Sequence[Any]) -> list[Any]:
        return list(values[:1]) if len(set(values)) == 1 else []

    data = common([Path(str(record.config["data"])).name for record in records])
    models = common([str(record.config["model"]) for record in records])
    recipes = common([str(record.config["recipe"]["name"]) for record in records])
    epochs = common([int(record.config["recipe"]["epochs"]) for record in records])
    what = " on ".join([*(models or [f"{len(records)} runs"] * bool(records)), *data])
    counts = [f"{number} {'epoch' if number == 1 else 'epochs'}" for number in epochs]
    error = ""
    if len(records) == 1:
        error = f": {records[0].top1_error:.2f} % {records[0].measured} error"
    return ", ".join([what, *recipes, *counts]) + error


def _follows(record: RunRecord, name: str) -> bool:
    """Whether a value of the recipe is the one that its name stands for."""
    if name == "recipe" or name not in Recipe.__dataclass_fields__:
        return False
    recipe = RECIPES.get(record.config["recipe"]["name"])
    value = record.settings.get(name)
    usual = getattr(recipe, name, None)
    return value == (list(usual) if isinstance(usual, tuple) else usual)


def _describe(name: str, value: Any) -> str:
    words = name.replace("_", " ")
    if name in ("model", "recipe", "precision"):
        return str(value)
    if name in ("data", "initial_checkpoint") and value:
        value = Path(str(value)).name
    if value is None or value is False:
        return f"no {words}"
    if value is True:
        return words
    return f"{words} {', '.join(map(str, value)) if isinstance(value, list) else value}"


def _short_names(records: Sequence[RunRecord]) -> list[str]:
    """Names of the folders; the end of their paths where those are equal or long."""
    names = [record.path.resolve().name for record in records]
    if len(set(names)) < len(names):
        names = ["/".join(record.path.resolve().parts[-2:]) for record in records]
    return [name if len(name) <= _LONGEST_LABEL else f"…{name[-_LONGEST_LABEL:]}" for name in names]
