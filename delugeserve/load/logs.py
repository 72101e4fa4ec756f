"""LoadGen's log files."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delugeserve.errors import Failure

SUMMARY = "mlperf_log_summary.txt"
DETAIL = "mlperf_log_detail.txt"
TRACE = "mlperf_log_trace.json"

_LINE = ":::MLLOG "
_SAMPLE = re.compile(
    rb'"name":"Sample".*?"ts":([0-9.]+),"args":\{"sample_seq":(\d+),"query_seq":(\d+).*?'
    rb'"issue_start_ns":(-?\d+),"complete_ns":(-?\d+)'
)


@dataclass(frozen=True)
class Times:
    """When the queries of a test were scheduled, sent and answered.

    Attributes:
        scheduled: float64 ``[N]``, seconds from the start of the test, ascending.
        issue_delay: float64 ``[N]``, seconds from then until the query was given to the sender.
        latency: float64 ``[N]``, seconds from when it was scheduled until its last answer.
    """

    scheduled: npt.NDArray[np.float64]
    issue_delay: npt.NDArray[np.float64]
    latency: npt.NDArray[np.float64]


def read_detail(folder: Path) -> dict[str, Any]:
    """Return what LoadGen logged, by key; of a key that is there more than once, a list.

    A line that is cut off, as on a full disk, is left out.
    """
    entries: dict[str, Any] = {}
    for line in (folder / DETAIL).read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith(_LINE):
            continue
        try:
            entry = json.loads(line.removeprefix(_LINE))
        except ValueError:
            continue
        key, value = str(entry["key"]), entry["value"]
        if key in entries:
            before = entries[key]
            entries[key] = [*(before if isinstance(before, list) else [before]), value]
        else:
            entries[key] = value
    return entries


def read_times(folder: Path, *, by_sample: bool = False) -> Times:
    """Return the times of each query from LoadGen's trace.

    Args:
        folder: where LoadGen's log files are.
        by_sample: return the times of each sample instead.

    Raises:
        Failure: there are none.
    """
    rows: dict[int, tuple[float, int, int]] = {}
    with (folder / TRACE).open("rb") as lines:
        for line in lines:
            if match := _SAMPLE.search(line):
                scheduled, sample, query, issued, complete = match.groups()
                number, last = int(sample if by_sample else query), int(complete)
                if number in rows:  # a query ends with its last sample
                    last = max(last, rows[number][2])
                rows[number] = (float(scheduled) / 1e6, int(issued), last)
    if not rows:
        raise Failure(
            f"LoadGen's trace in {folder} names no query.",
            "Check that the disk is not full, and run the test again.",
        )
    table = np.asarray(sorted(rows.values()), np.float64).reshape(-1, 3)
    return Times(table[:, 0], table[:, 1] / 1e9, table[:, 2] / 1e9)
