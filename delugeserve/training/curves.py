"""Learning curves: test error, loss and learning rate against the epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from delugeserve.plotting import new_figure
from delugeserve.training.records import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Figures that span more than this are drawn on a linear scale.
_LARGEST_SPAN = 1e4
# Where the labels of a logarithmic scale stand; wide enough for whatever float32 can hold.
_ROUND = [digit * 10.0**power for power in range(-40, 40) for digit in (1, 2, 5)]


def draw_curves(records: Sequence[RunRecord]) -> Figure:
    """Draw the learning curves of one run, or of several into the same axes.

    Args:
        records: runs; those without a whole epoch are left out.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    records = [record for record in records if record.epochs]
    figure = new_figure(10, 5.5)
    axes = figure.subplot_mosaic([["error", "loss"], ["error", "rate"]], width_ratios=[3, 2])
    for number, record in enumerate(records):
        rows = record.epochs
        epochs = [row.epoch for row in rows]
        # A line through one point cannot be seen.
        style = f"C{number}o" if len(rows) == 1 else f"C{number}"
        label = f"{record.name} ({record.config['model']}), {record.top1_error:.2f} %"
        axes["error"].plot(epochs, [row.val_error for row in rows], style, label=label)
        axes["loss"].plot(epochs, [row.train_loss for row in rows], style)
        axes["loss"].plot(epochs, [row.val_loss for row in rows], style, linestyle=":")
        axes["rate"].plot(epochs, [row.learning_rate for row in rows], style)
    titles = {
        "error": "test error in percent",
        "loss": "loss: training (line) and test (dots)",
        "rate": "learning rate",
    }
    for name, title in titles.items():
        axes[name].set_title(title, loc="left", fontsize=10)
        axes[name].grid(alpha=0.3)
        set_scales(axes[name])
    axes["error"].legend()
    for name in ("error", "rate"):
        axes[name].set_xlabel("epoch")
    return figure


def set_scales(axes: Axes) -> None:
    """Whole epochs; a logarithmic scale, but for figures that reach zero or come close to it."""
    from matplotlib import ticker

    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    drawn = [float(value) for line in axes.lines for value in np.asarray(line.get_ydata())]
    values = [value for value in drawn if math.isfinite(value)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low <= high / _LARGEST_SPAN:
        axes.set_ylim(bottom=0)
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.FixedLocator(_ROUND))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    # From a round figure to a round one, so that at least two are labelled.
    bottom = max(figure for figure in _ROUND if figure <= low)
    top = min(figure for figure in _ROUND if figure > high)
    axes.set_ylim(0.95 * bottom, 1.05 * top)
