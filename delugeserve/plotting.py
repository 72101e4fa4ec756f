"""Pictures: figures drawn without touching a program's own matplotlib settings, saved whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from delugeserve.errors import UsageError, require
from delugeserve.system.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")


def new_figure(width: float = 8, height: float = 5) -> Figure:
    """Make an empty figure.

    Args:
        width: in inches; a PNG has 150 pixels to the inch.
        height: likewise.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure: Any = require("matplotlib.figure", "train").Figure
    drawn: Figure = figure(figsize=(width, height), dpi=150, layout="constrained")
    return drawn


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG or SVG, as the path's suffix says: beside its place, then renamed.

    Raises:
        UsageError: the suffix is another one, or the file cannot be written.
    """
    check_picture_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as beside:
            figure.savefig(beside)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}.", "Choose another file.") from error


def check_picture_path(path: Path) -> None:
    """Refuse a path that :func:`save_figure` would refuse, before the work and not after it.

    Raises:
        UsageError: the suffix is neither ``.png`` nor ``.svg``, or the path is a folder.
    """
    check_suffix(path)
    if path.is_dir():
        raise UsageError(f"{path} is a folder.", "Give the name of a file.")


def check_suffix(path: Path) -> None:
    """Refuse a path whose suffix is neither ``.png`` nor ``.svg``.

    Raises:
        UsageError: it is another one.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} is no picture's name.", "Let it end in .png or .svg.")
