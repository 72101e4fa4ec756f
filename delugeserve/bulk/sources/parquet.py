"""Images in parquet files: a column of encoded images, as the Hugging Face Hub stores them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from delugeserve.bulk.items import Item, Shard, too_large, unreadable
from delugeserve.data.readers.parquet import ImageColumn, find_image_column
from delugeserve.errors import DatasetError, MissingExtraError
from delugeserve.system.imports import require

EXTRA = "bulk"

_ROWS_AT_ONCE = 64


def read_parquet(file: BinaryIO, shard: Shard) -> Iterator[Item]:
    """Yield the images of a parquet file, a few rows at a time; none if no column has images.

    Args:
        file: the parquet file.
        shard: its name and stamp.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    pyarrow = require("pyarrow", EXTRA)
    parquet = require("pyarrow.parquet", EXTRA)
    try:
        table = parquet.ParquetFile(file)
        column = _find_column(shard, table.schema_arrow)
        if column is None:
            return
        row = 0
        batches = table.iter_batches(_ROWS_AT_ONCE, columns=[column.content], use_threads=False)
        for batch in batches:
            values = batch.column(0)
            if column.content != column.name:
                values = values.flatten()[0]
            for value in values:
                yield _item(shard, row, value.as_py())
                row += 1
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError):
        yield unreadable(
            shard.source,
            "it is damaged or not a parquet file, so that its other images are missing",
            "Download or create it again.",
            shard=shard,
        )


def _find_column(shard: Shard, schema: Any) -> ImageColumn | None:
    try:
        column = find_image_column(Path(shard.source), schema)
    except DatasetError:
        return None
    return None if column.paths else column


def _item(shard: Shard, row: int, content: bytes | None) -> Item:
    source = f"{shard.source}:{row}"
    if content is None:
        return unreadable(source, "the row has no image", "Remove the row.", shard=shard)
    return too_large(source, len(content), shard) or Item(source, content, shard=shard)


def count_rows(path: str) -> int | None:
    """Return the number of rows of a local parquet file; None if it cannot be read."""
    try:
        return int(require("pyarrow.parquet", EXTRA).read_metadata(path).num_rows)
    except (MissingExtraError, OSError, ValueError):  # Arrow's errors of files are one of these
        return None
