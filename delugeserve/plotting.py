"""Figures: drawn without global matplotlib settings, saved atomically as PNG or SVG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from delugeserve.errors import UsageError
from delugeserve.system.files import write_output
from delugeserve.system.imports import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")


def new_figure(width: float = 8, height: float = 5) -> Figure:
    """Make an empty figure.

    Args:
        width: in inches; a PNG has 150 pixels per inch.
        height: in inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure: Any = require("matplotlib.figure", "train").Figure
    drawn: Figure = figure(figsize=(width, height), dpi=150, layout="constrained")
    return drawn


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure atomically as PNG or SVG, as the path's suffix says.

    Raises:
        UsageError: the path has another suffix, or the file cannot be written.
    """
    check_suffix(path)
    with write_output(path) as beside:
        figure.savefig(beside)


def check_picture_path(path: Path) -> None:
    """Check before the work that :func:`save_figure` can write to a path after it.

    Raises:
        UsageError: the path has another suffix than ``.png`` or ``.svg``, or is a folder.
        MissingExtraError: matplotlib is not installed.
    """
    check_suffix(path)
    if path.is_dir():
        raise UsageError(f"{path} is a folder.", f"Give a file, such as {path / 'plot.png'}.")
    require("matplotlib.figure", "train")


def check_suffix(path: Path) -> None:
    """Check that a path ends in ``.png`` or ``.svg``.

    Raises:
        UsageError: it does not.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"Pictures are written as PNG or SVG, not to {path}.",
            "Give a path that ends in .png or .svg.",
        )
