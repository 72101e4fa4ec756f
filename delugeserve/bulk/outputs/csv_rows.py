"""CSV: a line for each image."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from delugeserve.bulk.outputs.base import Format, display_name
from delugeserve_client import Classification


class CsvFormat(Format):
    """CSV in UTF-8 with a header; the classes of an image are groups of columns."""

    def header(self) -> bytes:
        """Return the line that names the columns."""
        columns = ["label", "index", "probability"]
        more = [f"{name}_{rank}" for rank in range(2, self.top_k + 1) for name in columns]
        return _lines([["source", *columns, *more, "error", "model", "version", "digest"]])

    def encode(self, rows: Sequence[Classification]) -> bytes:
        """Return a line for each row."""
        return _lines(self._cells(row) for row in rows)

    def sources(self, log: Path) -> Iterator[str]:
        """Yield the names in the rows of a log."""
        with log.open(encoding="utf-8", errors="replace", newline="") as lines:
            reader = csv.reader(lines)
            next(reader, None)
            yield from (row[0] for row in reader)

    def _cells(self, row: Classification) -> list[str]:
        cells = [display_name(row.source)]
        for prediction in row.predictions:
            cells += [prediction.label, str(prediction.index), str(prediction.probability)]
        cells += [""] * (1 + 3 * self.top_k - len(cells))
        error = "" if row.error is None else display_name(str(row.error))
        return [*cells, error, self.model.name, self.model.version, self.model.digest or ""]


def _lines(rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
