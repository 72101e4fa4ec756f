"""Results as the CSV file that perf_analyzer writes, with further columns after its own."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from delugeserve.load.rows import Row
from delugeserve.system.files import write_output

# perf_analyzer's names; its times are whole microseconds.
_SERVER = {
    "Server Queue": "queue_ms",
    "Server Compute Input": "compute_input_ms",
    "Server Compute Infer": "compute_infer_ms",
    "Server Compute Output": "compute_output_ms",
}


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write results as CSV.

    Args:
        rows: at least one.
        path: the file.

    Raises:
        UsageError: the file cannot be written.
    """
    table = [_fields(row) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    with write_output(path) as beside:
        beside.write_text(text.getvalue(), encoding="utf-8")


def _fields(row: Row) -> dict[str, str]:
    result = row.first
    mean_ms = row.mean_of(lambda result: result.mean_ms)
    delay_ms = row.mean_of(lambda result: result.issue_delay_mean_ms)
    splits = [result.server for result in row.results if result.server is not None]
    parts = {
        name: mean(getattr(split, key) for split in splits) if splits else None
        for name, key in _SERVER.items()
    }
    inside = sum(value or 0.0 for value in parts.values())
    percentiles = row.percentiles_ms()
    return {
        "Concurrency": "" if result.in_flight is None else str(result.in_flight),
        "Request Rate": f"{result.scheduled_rate:.6g}" if result.scheduled_rate else "",
        "Inferences/Second": f"{row.mean_of(lambda result: result.images_per_s):.6g}",
        "Client Send": _microseconds(delay_ms),
        "Network+Server Send/Recv": _microseconds(mean_ms - delay_ms - inside) if splits else "",
        **{name: "" if value is None else _microseconds(value) for name, value in parts.items()},
        "Client Recv": "0",  # part of Network+Server Send/Recv
        **{f"p{name} latency": _microseconds(value) for name, value in percentiles.items()},
        "Avg latency": _microseconds(mean_ms),
        "Max latency": _microseconds(row.max_ms),
        "Model": result.model,
        "Scenario": result.scenario.value,
        "Batch Size": str(result.batch_size),
        "Requests": str(sum(result.queries for result in row.results)),
        "Errors": str(row.errors),
        "Wrong": str(row.wrong),
        "Verdict": row.verdict,
        "Client Cores": f"{row.mean_of(lambda result: result.client_cores):.3g}",
    }


def _microseconds(milliseconds: float) -> str:
    return f"{milliseconds * 1e3:.0f}"
