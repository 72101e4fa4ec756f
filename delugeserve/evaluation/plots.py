"""Pictures of an evaluation: the confusion matrix and the reliability diagram."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from delugeserve.errors import require
from delugeserve.evaluation.evaluate import Report
from delugeserve.plotting import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NUMBERED = 20
"""Classes up to which every cell has room for a number."""

_MOST_NAMED = 100
"""Classes up to which every row has room for a name."""


def draw_confusion(report: Report, title: str) -> Figure:
    """Draw the confusion matrix, each row in percent of the class's images.

    Args:
        report: of the evaluation.
        title: what was evaluated.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    names = [one.name for one in report.classes]
    count = len(names)
    counts = np.array(report.confusion)
    percent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(6.5, 2.5 + 0.1 * min(count, _MOST_NAMED))
    figure = new_figure(side + 0.5, side)
    axes: Any = figure.add_subplot()
    # Errors are a few percent and right answers most of a hundred: the square root shows both.
    norm = require("matplotlib.colors", "train").PowerNorm(0.5, 0, 100)
    image = axes.imshow(percent, cmap="Blues", norm=norm, interpolation="nearest")
    figure.colorbar(image, label="percent of the class's images", fraction=0.04, pad=0.02)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"{title}\ntop-1 error {report.top1_error:.2f} %", loc="left", fontsize=10)
    if count <= _MOST_NAMED:
        size = 9 if count <= _MOST_NUMBERED else 6
        axes.set_xticks(range(count), names, rotation=90, fontsize=size)
        axes.set_yticks(range(count), names, fontsize=size)
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


def draw_reliability(report: Report, title: str) -> Figure:
    """Draw accuracy against confidence, and below it how many images have which confidence.

    Args:
        report: of the evaluation.
        title: what was evaluated.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(6, 6.5)
    axes: Any
    histogram: Any
    axes, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    lows = 100 * np.array([one.low for one in report.bins])
    width = 100 / len(report.bins)
    bar = {"width": width, "align": "edge", "edgecolor": "white"}
    filled = [one for one in report.bins if one.num_images]
    starts = 100 * np.array([one.low for one in filled])
    accuracy = 100 * np.array([one.accuracy for one in filled])
    confidence = 100 * np.array([one.confidence for one in filled])
    axes.bar(starts, accuracy, color="C0", alpha=0.7, label="accuracy", **bar)
    axes.hlines(
        confidence, starts, starts + width, color="C3", linewidth=2, label="mean confidence"
    )
    axes.plot([0, 100], [0, 100], "--", color="0.4", linewidth=1, label="perfectly calibrated")
    axes.set_ylabel("accuracy in %")
    axes.set_ylim(0, 100)
    axes.legend(loc="upper left", fontsize=8)
    axes.set_title(
        f"{title}\nexpected calibration error {report.calibration_error:.2f} %",
        loc="left",
        fontsize=10,
    )
    share = 100 * np.array([one.num_images for one in report.bins]) / report.num_images
    histogram.bar(lows, share, color="0.6", **bar)
    histogram.set_ylabel("images in %")
    histogram.set_xlabel("confidence in %")
    histogram.set_xlim(0, 100)
    return figure
