"""Tables as CSV files."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from delugeserve.system.files import write_output


def write_csv(path: Path, headings: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a table atomically. None becomes an empty cell.

    Raises:
        UsageError: the file cannot be written.
    """
    with write_output(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([list(headings), *map(list, rows)])
