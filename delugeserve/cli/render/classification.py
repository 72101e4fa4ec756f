"""Classified images on standard output, as they are answered: a table, JSON, JSON Lines, CSV."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol

from rich.cells import cell_len
from rich.text import Text

from delugeserve.bulk.outputs.json_lines import describe
from delugeserve.cli.render.console import format_json, out, print_table
from delugeserve.cli.render.safe_text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from delugeserve.bulk.items import Skipped
    from delugeserve.bulk.outputs import Format
    from delugeserve_client import Classification, FolderContents, Prediction

_BAR_WIDTH = 12
_PATH_WIDTH = 30
_PAGE_ROWS = 100
_PAGE_S = 0.5

_HEADINGS = ("image", "class", "probability", "other classes")


class Rows(Protocol):
    """Prints rows as they come."""

    def write(self, row: Classification) -> None:
        """Print a row."""

    def close(self) -> None:
        """Print what is left."""


class TableRows:
    """A table, printed in pages: the first page decides the least widths of the columns."""

    def __init__(self) -> None:
        self._page: list[tuple[Text, ...]] = []
        self._widths: tuple[int, ...] = ()
        self._printed = time.monotonic()

    def write(self, row: Classification) -> None:
        """Add a row; a page is printed when it is full, or half a second after the last one."""
        self._page.append(_cells(row))
        if len(self._page) >= _PAGE_ROWS or time.monotonic() - self._printed > _PAGE_S:
            self.close()

    def close(self) -> None:
        """Print the rows of the page."""
        if self._page:
            print_table(_HEADINGS, self._page, texts=4, continued=self._widths)
            self._widths = self._widths or (*map(self._width, range(3)), 1)
        self._page = []
        self._printed = time.monotonic()
        sys.stdout.flush()

    def _width(self, column: int) -> int:
        texts = (_HEADINGS[column], *(cells[column].plain for cells in self._page))
        return max(map(cell_len, texts))


class JsonRows:
    """A JSON array, whose end is printed even if an error ends the run."""

    def __init__(self) -> None:
        self._any = False

    def write(self, row: Classification) -> None:
        """Print an element."""
        text = format_json([describe(row)]).removeprefix("[").removesuffix("\n]")
        _emit(("," if self._any else "[") + text)
        self._any = True

    def close(self) -> None:
        """Print the end."""
        _emit("\n]\n" if self._any else "[]\n")


class LineRows:
    """JSON Lines or CSV."""

    def __init__(self, format_: Format) -> None:
        self._format = format_
        if header := format_.header():
            self._print(header)

    def write(self, row: Classification) -> None:
        """Print a line."""
        self._print(self._format.encode([row]))

    def close(self) -> None:
        """Do nothing: every line is printed."""

    def _print(self, content: bytes) -> None:
        if sys.stdout.isatty():  # names may hold escape sequences
            _emit(printable(content.decode().removesuffix("\n")) + "\n")
        else:
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()


def describe_skipped(contents: FolderContents | Skipped) -> str:
    """Count what was skipped beside images, such as ``3 .txt, 1 hidden``."""
    others: Mapping[str, int] = contents.others
    counts = [
        f"{count:,} {printable(suffix) or 'without a suffix'}"
        for suffix, count in sorted(others.items(), key=lambda item: (-item[1], item[0]))
    ]
    return ", ".join([*counts, *([f"{contents.hidden:,} hidden"] if contents.hidden else [])])


def _emit(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _cells(row: Classification) -> tuple[Text, ...]:
    name = Text(_shorten(printable(row.source)))
    if row.error is not None:
        reason = row.error.problem.removeprefix(row.source).lstrip(" :").rstrip(".")
        return (name, Text("not read", "red"), Text("-"), Text(printable(reason), "red"))
    if not row.predictions:
        return (name, Text("-", "dim"), Text("-"), Text("all below the threshold", "dim"))
    return (
        name,
        Text(printable(row.top.label), "bold"),
        Text(_bar(row.top)),
        Text(", ".join(_describe_class(p) for p in row.predictions[1:]), "dim"),
    )


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
