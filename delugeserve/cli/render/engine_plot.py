"""The plot of ``delugeserve benchmark-engines``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from delugeserve.errors import UsageError
from delugeserve.plotting import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from delugeserve_export.comparison import Row

_SHADES = (0.35, 0.95)
"""The lightest and darkest blue: small and large batches."""


def draw_engines(rows: Sequence[Row], sizes: Sequence[int], model: str, machine: str) -> Figure:
    """Draw images per second of each engine: the fastest on top, a bar per batch size.

    Args:
        rows: the engines; those without timings are left out.
        sizes: the batch sizes that were timed.
        model: what was exported.
        machine: where.

    Raises:
        UsageError: no engine was timed.
        MissingExtraError: matplotlib is not installed.
    """
    timed = [row for row in rows if row.milliseconds]
    if not timed:
        raise UsageError("No engine was timed, so there is nothing to plot.", "Leave --plot out.")
    import matplotlib

    figure = new_figure(8, 1.5 + 0.2 * len(timed) * (len(sizes) + 1))
    axes: Any = figure.add_subplot()
    blues = matplotlib.colormaps["Blues"]
    shades = np.linspace(*_SHADES, len(sizes)) if len(sizes) > 1 else [0.7]
    height = 0.84 / len(sizes)
    places = np.arange(len(timed))
    for number, (size, shade) in enumerate(zip(sizes, shades, strict=True)):
        rates = [1000 * size / row.milliseconds[size] for row in timed]
        offset = (number + 0.5) * height - 0.42
        bars = axes.barh(
            places + offset, rates, height * 0.92, color=blues(shade), label=f"batch {size}"
        )
        axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
    axes.set_yticks(places, [_label(row) for row in timed], fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.02)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    speeds = "; x: speed relative to onnxruntime fp32" if any(row.speedup for row in timed) else ""
    axes.set_xlabel(f"images/s (higher is better){speeds}")
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    axes.set_title(model, loc="left", fontsize=12, fontweight="bold", pad=18)
    axes.text(0, 1, machine, transform=axes.transAxes, fontsize=8, color="0.4", va="bottom")
    return figure


def _label(row: Row) -> str:
    facts = []
    if row.top1_error is not None:
        facts.append(f"{row.top1_error:.2f} % error")
    if row.speedup is not None:
        facts.append(f"{row.speedup:.2f}x")
    name = f"{row.backend.replace('_', '-')} {row.precision}"
    return name + (f"\n{', '.join(facts)}" if facts else "")
