"""The picture of ``delugeserve benchmark-engines``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from delugeserve.errors import UsageError
from delugeserve.plotting import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from delugeserve_export.comparison import Row


def draw_engines(rows: Sequence[Row], sizes: Sequence[int], model: str, machine: str) -> Figure:
    """Draw images per second of each engine, a bar for each batch size.

    Args:
        rows: engines; those that were not run are left out.
        sizes: the batch sizes that were timed.
        model: what was exported.
        machine: where.

    Raises:
        UsageError: no engine was run.
        MissingExtraError: matplotlib is not installed.
    """
    ran = [row for row in rows if row.milliseconds]
    if not ran:
        raise UsageError("No engine ran, so there is nothing to draw.", "Leave --plot out.")
    figure = new_figure(8, 1.5 + 0.28 * len(ran) * len(sizes))
    axes: Any = figure.add_subplot()
    height = 0.8 / len(sizes)
    places = np.arange(len(ran))
    for number, size in enumerate(sizes):
        rates = [1000 * size / row.milliseconds[size] for row in ran]
        bars = axes.barh(
            places + (number + 0.5) * height - 0.4, rates, height, label=f"batch {size}"
        )
        axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
    labels = [f"{row.backend} {row.precision}{_error(row)}" for row in ran]
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("images/s")
    axes.legend(loc="best", fontsize=8)
    axes.set_title(f"{model}\n{machine}", loc="left", fontsize=10)
    return figure


def _error(row: Row) -> str:
    return "" if row.top1_error is None else f"\n{row.top1_error:.2f} % error"
