"""Parquet: rows are logged as an Arrow stream, from which the file is written at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from delugeserve.bulk.outputs.base import Format, display_name, raw_name
from delugeserve.system.files import atomic_write
from delugeserve.system.imports import require
from delugeserve_client import Classification

ROWS_PER_GROUP = 2**16
"""Rows of a row group. It does not depend on how the rows arrived."""


class ParquetFormat(Format):
    """Parquet, with the model in columns, which cost a few bytes each, and in the metadata.

    A parquet file cannot be read before its end is written. The log is an Arrow stream, whose
    messages can be appended and cut off like lines.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """

    finished: ClassVar[bool] = False

    def header(self) -> bytes:
        """Return the stream's schema."""
        return bytes(self._schema().serialize())

    def encode(self, rows: Sequence[Classification]) -> bytes:
        """Return rows as one record batch."""
        pyarrow = require("pyarrow", "bulk")
        if not rows:
            return b""
        model = self.model
        columns = {
            "source": [display_name(row.source) for row in rows],
            "source_bytes": [raw_name(row.source) for row in rows],
            "predictions": [
                None
                if row.error is not None
                else [
                    {"label": p.label, "index": p.index, "probability": p.probability}
                    for p in row.predictions
                ]
                for row in rows
            ],
            "error": [None if row.error is None else display_name(str(row.error)) for row in rows],
            "model": [model.name] * len(rows),
            "version": [model.version] * len(rows),
            "digest": [model.digest] * len(rows),
        }
        batch = pyarrow.RecordBatch.from_pydict(columns, schema=self._schema())
        return bytes(batch.serialize())

    def sources(self, log: Path) -> Iterator[str]:
        """Yield the names in the rows of a log."""
        for batch in _batches(log):
            yield from batch.column("source").to_pylist()

    def finish(self, log: Path, output: Path) -> None:
        """Write the parquet file, in row groups of one size."""
        pyarrow = require("pyarrow", "bulk")
        parquet = require("pyarrow.parquet", "bulk")
        waiting: list[Any] = []
        with (
            atomic_write(output, "finish", sync=True) as beside,
            parquet.ParquetWriter(beside, self._schema(), compression="zstd") as writer,
        ):

            def write_groups(least: int) -> None:
                table = pyarrow.Table.from_batches(waiting, self._schema())
                waiting.clear()
                while len(table) >= least:
                    # One chunk: the chunks decide where the file's pages end.
                    group = table.slice(0, ROWS_PER_GROUP).combine_chunks()
                    writer.write_table(group, ROWS_PER_GROUP)
                    table = table.slice(ROWS_PER_GROUP)
                waiting.extend(table.to_batches())

            count = 0
            for batch in _batches(log):
                waiting.append(batch)
                count += len(batch)
                if count >= ROWS_PER_GROUP:
                    write_groups(ROWS_PER_GROUP)
                    count = sum(map(len, waiting))
            write_groups(1)

    def _schema(self) -> Any:
        pyarrow = require("pyarrow", "bulk")
        prediction = pyarrow.struct(
            [
                ("label", pyarrow.string()),
                ("index", pyarrow.int32()),
                ("probability", pyarrow.float64()),
            ]
        )
        return pyarrow.schema(
            [
                ("source", pyarrow.string()),
                ("source_bytes", pyarrow.binary()),
                ("predictions", pyarrow.list_(prediction)),
                ("error", pyarrow.string()),
                ("model", pyarrow.string()),
                ("version", pyarrow.string()),
                ("digest", pyarrow.string()),
            ],
            metadata={
                "delugeserve.model": self.model.name,
                "delugeserve.version": self.model.version,
                "delugeserve.digest": self.model.digest or "",
            },
        )


def _batches(log: Path) -> Iterator[Any]:
    ipc = require("pyarrow.ipc", "bulk")
    with log.open("rb") as file, ipc.open_stream(file) as stream:
        yield from stream
