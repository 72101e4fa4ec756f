"""Plots of an evaluation: the confusion matrix and the reliability diagram."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from delugeserve.evaluation.evaluate import Report
from delugeserve.evaluation.metrics import wilson_interval
from delugeserve.plotting import new_figure
from delugeserve.system.imports import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NUMBERED = 20
"""Largest number of classes for which every cell shows its number."""

_MOST_NAMED = 100
"""Largest number of classes for which every row shows its name."""


def draw_confusion(report: Report, title: str) -> Figure:
    """Draw the confusion matrix, each row in percent of its class's images.

    Args:
        report: the evaluation.
        title: what was evaluated.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    names = [one.name for one in report.classes]
    count = len(names)
    counts = np.array(report.confusion)
    percent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cell = 0.4 if count <= _MOST_NUMBERED else 0.13  # inches
    side = max(6.0, 2 + cell * min(count, _MOST_NAMED))
    figure = new_figure(side + 1, side)
    axes: Any = figure.add_subplot()
    # Errors are a few percent and right predictions near 100: the square root shows both.
    norm = require("matplotlib.colors", "train").PowerNorm(0.5, 0, 100)
    image = axes.imshow(percent, cmap="Blues", norm=norm, interpolation="nearest")
    figure.colorbar(image, label="images of the true class, %", fraction=0.04, pad=0.02)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"{title}\ntop-1 error {report.top1_error:.2f} %", loc="left", fontsize=10)
    if count <= _MOST_NAMED:
        size = 9 if count <= _MOST_NUMBERED else 7
        axes.set_xticks(range(count), names, rotation=90, fontsize=size)
        axes.set_yticks(range(count), names, fontsize=size)
    if _MOST_NUMBERED < count <= _MOST_NAMED:
        _draw_grid(axes, count)
    if count <= _MOST_NUMBERED:
        for row, column in np.argwhere(counts):
            share = percent[row, column]
            axes.text(
                column,
                row,
                f"{share:.1f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if share > 30 else "black",
            )
    return figure


def _draw_grid(axes: Any, count: int) -> None:
    """Draw faint lines between the cells, along which a row leads to its name."""
    edges = np.arange(count + 1) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.3)
    axes.tick_params(which="minor", length=0)


def draw_reliability(report: Report, title: str) -> Figure:
    """Draw the reliability diagram, and below it the distribution of the confidences.

    Error bars are 95 % Wilson intervals of the accuracy; the wider the interval, the paler the bar.

    Args:
        report: the evaluation.
        title: what was evaluated.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(6.5, 6.5)
    axes: Any
    histogram: Any
    axes, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    width = 100 / len(report.bins)
    filled = [one for one in report.bins if one.num_images]
    starts = 100 * np.array([one.low for one in filled])
    accuracy = 100 * np.array([one.accuracy for one in filled])
    confidence = 100 * np.array([one.confidence for one in filled])
    intervals = [
        wilson_interval(float(error), one.num_images)
        for error, one in zip(100 - accuracy, filled, strict=True)
    ]
    high, low = 100 - np.array(intervals).T
    bars = axes.bar(starts, accuracy, width, align="edge", edgecolor="white")
    for bar, spread in zip(bars, high - low, strict=True):
        bar.set_facecolor(("C0", 0.15 + 0.65 * (1 - spread / 100) ** 2))
    axes.errorbar(
        starts + width / 2,
        accuracy,
        np.maximum([accuracy - low, high - accuracy], 0),
        fmt="none",
        ecolor="0.25",
        elinewidth=1,
        capsize=3,
        label="95 % interval of the accuracy",
    )
    axes.hlines(
        confidence, starts, starts + width, color="C3", linewidth=2, label="mean confidence"
    )
    axes.plot([0, 100], [0, 100], "--", color="0.4", linewidth=1, label="perfect calibration")
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(0, 102)
    accuracy_patch = require("matplotlib.patches", "train").Patch(
        facecolor="C0", alpha=0.8, label="accuracy (paler: less certain)"
    )
    others = axes.get_legend_handles_labels()[0]
    figure.legend(
        handles=[accuracy_patch, *others], loc="outside lower center", ncols=2, fontsize=8
    )
    axes.set_title(
        f"{title}\nexpected calibration error {report.calibration_error:.2f} % "
        f"on {report.num_images:,} images",
        loc="left",
        fontsize=10,
    )
    _draw_histogram(histogram, report, width)
    return figure


def _draw_histogram(axes: Any, report: Report, width: float) -> None:
    lows = 100 * np.array([one.low for one in report.bins])
    counts = np.array([one.num_images for one in report.bins])
    share = 100 * counts / report.num_images
    axes.bar(lows, share, width, align="edge", edgecolor="white", color="0.6")
    for low, height, count in zip(lows, share, counts, strict=True):
        if count:
            axes.text(low + width / 2, height, f"{count:,}", ha="center", va="bottom", fontsize=7)
    axes.margins(y=0.2)
    axes.set_ylabel("images, %")
    axes.set_xlabel("confidence, %")
    axes.set_xlim(0, 100)
