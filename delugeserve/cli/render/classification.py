"""Classified images as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from delugeserve.cli.render.console import out, print_table
from delugeserve.cli.render.safe_text import printable

if TYPE_CHECKING:
    from delugeserve_client import Classification, FolderContents, Prediction

_BAR_WIDTH = 12
_PATH_WIDTH = 30


def print_classifications(results: Sequence[Classification]) -> None:
    """Print a table with one row per image.

    Args:
        results: images that could be read; nothing is printed for none.
    """
    if not results:
        return
    print_table(
        ("image", "class", "probability", "other classes"),
        (
            (
                Text(_shorten(printable(result.source))),
                Text(printable(result.top.label), "bold"),
                Text(_bar(result.top)),
                Text(", ".join(_describe_class(p) for p in result.predictions[1:]), "dim"),
            )
            for result in results
        ),
        texts=4,
    )


def describe(result: Classification) -> dict[str, Any]:
    """Return a result as JSON shows it."""
    if result.error is not None:
        return {"source": result.source, "error": str(result.error)}
    return {
        "source": result.source,
        "predictions": [
            {"label": p.label, "index": p.index, "probability": p.probability}
            for p in result.predictions
        ],
    }


def describe_skipped(contents: FolderContents) -> str:
    """Count what a folder holds other than images, such as ``3 .txt, 1 hidden``."""
    counts = [
        f"{count} {printable(suffix) or 'without a suffix'}"
        for suffix, count in sorted(contents.others.items(), key=lambda item: (-item[1], item[0]))
    ]
    return ", ".join([*counts, *([f"{contents.hidden} hidden"] if contents.hidden else [])])


def _shorten(source: str) -> str:
    """Return the end of a long path, if it is shown on a terminal."""
    if len(source) <= _PATH_WIDTH or not out.is_terminal:
        return source
    return f"…{source[1 - _PATH_WIDTH :]}"


def _bar(prediction: Prediction) -> str:
    percent = f"{prediction.probability:>6.1%}"
    if not out.is_terminal:
        return percent
    filled = round(prediction.probability * _BAR_WIDTH)
    return f"{'━' * filled}{' ' * (_BAR_WIDTH - filled)} {percent}"


def _describe_class(prediction: Prediction) -> str:
    return f"{printable(prediction.label)} {prediction.probability:.1%}"
