"""JSON Lines: an object for each image."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from delugeserve.bulk.outputs.base import Format, display_name, raw_name
from delugeserve_client import Classification


class JsonLinesFormat(Format):
    """JSON Lines in UTF-8, with the fields that ``--json`` prints and those of the model."""

    def encode(self, rows: Sequence[Classification]) -> bytes:
        """Return a line for each row."""
        return b"".join(self._line(row) for row in rows)

    def sources(self, log: Path) -> Iterator[str]:
        """Yield the names in the rows of a log."""
        with log.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                yield json.loads(line)["source"]

    def _line(self, row: Classification) -> bytes:
        record = describe(row)
        record["model"] = self.model.name
        record["version"] = self.model.version
        record["digest"] = self.model.digest
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def describe(row: Classification) -> dict[str, Any]:
    """Return a result as JSON shows it."""
    record: dict[str, Any] = {"source": display_name(row.source)}
    raw = raw_name(row.source)
    if row.error is not None:
        record["error"] = display_name(str(row.error))
    else:
        record["predictions"] = [
            {"label": p.label, "index": p.index, "probability": p.probability}
            for p in row.predictions
        ]
    if raw is not None:
        record["source_base64"] = base64.b64encode(raw).decode()
    return record
