"""The table, CSV and plot of the outcomes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.peers.catalogue import OURS, PEERS
from benchmarks.peers.interface import WORKLOADS
from benchmarks.peers.measure import Outcome
from delugeserve.plotting import new_figure, save_figure
from delugeserve.system.files import atomic_write

COLUMNS = (
    "",
    "queries/s at p99 <= {budget}",
    "ours / this",
    "p99 at half of the own rate",
    "CPU a query",
    "alone",
    "start",
    "memory",
)
_OUR_COLOUR, _PEER_COLOUR = "#1f77b4", "#b0b0b0"


@dataclass(frozen=True)
class Row:
    """One peer in one table, over all rounds.

    Attributes:
        model: the model's name.
        workload: the workload's name.
        peer: the peer's name.
        version: its version.
        rounds: number of outcomes.
        delay: seconds that it waits for more images; None if it is not told.
        rate: median of the highest rates, in queries/s; None if one round found none.
        rates: the lowest and the highest of them.
        half_p99_ms: median of the latencies at half of the rate.
        half_p99s_ms: the lowest and the highest of them.
        half_cpu_ms: median CPU time for a query, at half of the rate.
        alone_p50_ms: median latency of one request at a time.
        start_seconds: median time to the first answer.
        memory_mib: median memory.
        ratio: our rate divided by this one, in the median; None for ours.
        failure: why there is no rate.
    """

    model: str
    workload: str
    peer: str
    version: str
    rounds: int
    delay: float | None = None
    rate: float | None = None
    rates: tuple[float, float] | None = None
    half_p99_ms: float | None = None
    half_p99s_ms: tuple[float, float] | None = None
    half_cpu_ms: float | None = None
    alone_p50_ms: float | None = None
    start_seconds: float | None = None
    memory_mib: float | None = None
    ratio: float | None = None
    failure: str | None = None

    @property
    def title(self) -> str:
        """The peer with its version and delay."""
        delay = "" if self.delay is None else f", {self.delay * 1e3:g} ms"
        return f"{PEERS[self.peer].title} {self.version}{delay}"


def summarise(outcomes: Sequence[Outcome]) -> dict[tuple[str, str], list[Row]]:
    """Return the rows by model and workload, the fastest first."""
    groups: dict[tuple[str, str], dict[str, list[Outcome]]] = {}
    for one in outcomes:
        peers = groups.setdefault((one.cell.model, one.cell.workload), {})
        peers.setdefault(one.cell.peer, []).append(one)
    return {key: _rows(peers) for key, peers in groups.items()}


def _rows(peers: dict[str, list[Outcome]]) -> list[Row]:
    ours = {one.cell.turn: one.rate for one in peers.get(OURS, ()) if one.rate}
    rows = [_best(found, ours) for found in peers.values()]
    return sorted(rows, key=lambda row: -(row.rate or 0))


def _best(found: list[Outcome], ours: dict[int, float]) -> Row:
    """Return the row of a peer with the delay that suits it best."""
    delays = dict.fromkeys(one.cell.delay for one in found)
    rows = [_row([one for one in found if one.cell.delay == delay], ours) for delay in delays]
    return max(rows, key=lambda row: row.rate or 0)


def _row(found: list[Outcome], ours: dict[int, float]) -> Row:
    first = found[0]
    cell = first.cell
    base = Row(cell.model, cell.workload, cell.peer, first.version, len(found), cell.delay)
    failures = [one.failure for one in found if one.rate is None]
    if failures:
        return Row(**{**vars(base), "failure": failures[0]})
    rates = [one.rate or 0.0 for one in found]
    halves = [one.half_p99_ms or 0.0 for one in found]
    # Within a round, for the machine is not equally fast in all of them.
    ratios = [ours[one.cell.turn] / (one.rate or 1) for one in found if one.cell.turn in ours]
    return Row(
        **{
            **vars(base),
            "rate": float(np.median(rates)),
            "rates": (min(rates), max(rates)),
            "half_p99_ms": float(np.median(halves)),
            "half_p99s_ms": (min(halves), max(halves)),
            "half_cpu_ms": float(np.median([one.half_cpu_ms or 0.0 for one in found])),
            "alone_p50_ms": float(np.median([one.alone_p50_ms or 0.0 for one in found])),
            "start_seconds": float(np.median([one.start_seconds or 0.0 for one in found])),
            "memory_mib": float(np.median([one.memory or 0 for one in found])) / 2**20,
            "ratio": float(np.median(ratios)) if ratios and first.cell.peer != OURS else None,
            "failure": next((one.failure for one in found if one.failure), None),
        }
    )


def title(key: tuple[str, str]) -> str:
    """Return the title of a table."""
    model, workload = key
    return f"{model}: {WORKLOADS[workload]}"


def columns(budget: float) -> list[str]:
    """Return the heads of the columns for a latency budget in seconds."""
    return [one.format(budget=f"{budget * 1e3:g} ms") for one in COLUMNS]


def cells(row: Row) -> list[str]:
    """Return a row as text."""
    if row.rate is None:
        return [row.title, "none", *[""] * (len(COLUMNS) - 2)]
    return [
        row.title,
        _spread(row.rate, row.rates, ",.0f"),
        f"{row.ratio:.2f}" if row.ratio else "",
        _spread(row.half_p99_ms, row.half_p99s_ms, ".1f") + " ms",
        f"{row.half_cpu_ms:.2f} ms",
        f"{row.alone_p50_ms:.2f} ms",
        f"{row.start_seconds:.1f} s",
        f"{row.memory_mib:,.0f} MiB",
    ]


def markdown(tables: dict[tuple[str, str], list[Row]], budget: float) -> str:
    """Return the tables as Markdown."""
    lines = []
    for key, rows in tables.items():
        heads = columns(budget)
        lines += [f"**{title(key)}**", "", "| " + " | ".join(heads) + " |"]
        lines += ["|---" * len(heads) + "|"]
        lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
        lines += ["", *(f"{row.title}: {_one_line(row.failure)}\n" for row in rows if row.failure)]
    return "\n".join(lines)


def write_csv(tables: dict[tuple[str, str], list[Row]], path: Path) -> None:
    """Write one line for each row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*Row.__dataclass_fields__], lineterminator="\n")
    writer.writeheader()
    for rows in tables.values():
        for row in rows:
            values = vars(row)
            spans = {
                key: "" if values[key] is None else "..".join(f"{one:.4g}" for one in values[key])
                for key in ("rates", "half_p99s_ms")
            }
            writer.writerow({**values, **spans})
    with atomic_write(path) as beside:
        beside.write_text(text.getvalue(), encoding="utf-8")


def plot(tables: dict[tuple[str, str], list[Row]], budget: float, path: Path) -> None:
    """Draw rates and latencies, one line of panels for each table."""
    shown = {key: [row for row in rows if row.rate] for key, rows in tables.items()}
    shown = {key: rows for key, rows in shown.items() if rows}
    if not shown:
        return
    heights = [len(rows) + 1.2 for rows in shown.values()]
    figure = new_figure(10, 0.42 * sum(heights) + 0.6)
    axes = figure.subplots(len(shown), 2, squeeze=False, height_ratios=heights)
    for (left, right), (key, rows) in zip(axes, shown.items(), strict=True):
        names = [PEERS[row.peer].title for row in rows]
        colours = [_OUR_COLOUR if row.peer == OURS else _PEER_COLOUR for row in rows]
        for axis, values, spans, form in (
            (left, [row.rate or 0 for row in rows], [row.rates for row in rows], "{:,.0f}"),
            (
                right,
                [row.half_p99_ms or 0 for row in rows],
                [row.half_p99s_ms for row in rows],
                "{:.1f}",
            ),
        ):
            bars = axis.barh(names, values, color=colours, xerr=_errors(values, spans))
            axis.bar_label(bars, [form.format(value) for value in values], padding=4)
            axis.invert_yaxis()
            axis.margins(x=0.15)
            axis.spines[["top", "right"]].set_visible(False)
        left.set_title(title(key), loc="left", fontsize=10)
        right.set_yticklabels([])
    axes[-1][0].set_xlabel(f"queries/s at p99 <= {budget * 1e3:g} ms (more is better)")
    axes[-1][1].set_xlabel("p99 at half of the own rate, ms (less is better)")
    save_figure(figure, path)


def _errors(
    values: Sequence[float], spans: Sequence[tuple[float, float] | None]
) -> list[list[float]]:
    known = [span or (value, value) for span, value in zip(spans, values, strict=True)]
    below = [value - low for value, (low, _) in zip(values, known, strict=True)]
    above = [high - value for value, (_, high) in zip(values, known, strict=True)]
    return [below, above]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _spread(value: float | None, span: tuple[float, float] | None, form: str) -> str:
    if value is None:
        return ""
    text = f"{value:{form}}"
    if span is None or span[0] == span[1]:
        return text
    return f"{text} ({span[0]:{form}}..{span[1]:{form}})"
