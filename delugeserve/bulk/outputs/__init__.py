"""Rows to the bytes of a file: JSON Lines, CSV and parquet."""

from __future__ import annotations

import re
from pathlib import PurePath

from delugeserve.bulk.choices import FormatName as FormatName
from delugeserve.bulk.outputs.base import Format as Format
from delugeserve.bulk.outputs.csv_rows import CsvFormat
from delugeserve.bulk.outputs.json_lines import JsonLinesFormat
from delugeserve.bulk.outputs.parquet_rows import ParquetFormat
from delugeserve.errors import UsageError

FILE_FORMATS: dict[str, type[Format]] = {
    "jsonl": JsonLinesFormat,
    "csv": CsvFormat,
    "parquet": ParquetFormat,
}

_SUFFIXES: dict[str, FormatName] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}


def format_of(path: PurePath, name: FormatName | None) -> FormatName:
    """Return the name of the format of an output file.

    Args:
        path: the file.
        name: the format asked for; None takes that of the suffix.

    Raises:
        UsageError: the suffix is not known, the format is not one of a file, or the path is a URL.
    """
    if re.match(r"\w+:/", str(path)):
        raise UsageError(
            f"The output {path} is a URL.", "Write a local file, and copy it when it is complete."
        )
    if name is None:
        name = _SUFFIXES.get(path.suffix.lower())
        if name is None:
            raise UsageError(
                f"{path} has no suffix that tells its format.",
                f"End it in {', '.join(_SUFFIXES)}, or add --format {'|'.join(FILE_FORMATS)}.",
            )
    if name not in FILE_FORMATS:
        raise UsageError(
            f"--format {name} is printed, not written to a file.",
            f"Use --format {'|'.join(FILE_FORMATS)}, or leave out --output.",
        )
    return name
