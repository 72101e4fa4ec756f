"""The tables, CSV and plot of the outcomes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.peers.catalogue import OURS, PEERS
from benchmarks.peers.interface import WORKLOADS
from benchmarks.peers.outcome import Cell, Outcome, Plan, name_delay
from delugeserve.errors import UsageError
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
_BEGIN, _END = "<!-- results: written by --write-docs -->", "<!-- end of results -->"


@dataclass(frozen=True)
class Row:
    """One peer in one table, over all rounds.

    Attributes:
        model: the model's name.
        workload: the workload's name.
        peer: the peer's name.
        version: its version; empty if it was not measured.
        rounds: number of outcomes.
        delay: how long it waits for more images; empty if it is not told.
        rate: median of the highest rates, in queries/s; None if one round found none.
        rates: the lowest and the highest of them.
        half_rate: median of the rates of the tests at half of it.
        half_p99_ms: median of the latencies there.
        half_p99s_ms: the lowest and the highest of them.
        half_cpu_ms: median CPU time for a query there.
        alone_p50_ms: median latency of one request at a time.
        start_seconds: median time to the first answer.
        memory_mib: median memory.
        ratio: our rate divided by this one, in the median; None for ours.
        failure: why a figure is missing.
    """

    model: str
    workload: str
    peer: str
    version: str
    rounds: int
    delay: str = ""
    rate: float | None = None
    rates: tuple[float, float] | None = None
    half_rate: float | None = None
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
        name = " ".join(filter(None, (PEERS[self.peer].title, self.version)))
        return ", ".join(filter(None, (name, self.delay)))


@dataclass(frozen=True)
class Table:
    """The peers with one model and workload, the fastest first."""

    model: str
    workload: str
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """What is compared."""
        return f"{self.model}: {WORKLOADS[self.workload]}"

    @property
    def ours(self) -> Row | None:
        """Our row, if it has a rate."""
        return next((row for row in self.rows if row.peer == OURS and row.rate), None)

    @property
    def others(self) -> tuple[Row, ...]:
        """The other rows with a rate."""
        return tuple(row for row in self.rows if row.peer != OURS and row.rate)


@dataclass(frozen=True)
class Report:
    """What was measured, and what was to be measured.

    Attributes:
        plan: what was to be measured, and how.
        outcomes: what counts of what was found.
        tables: the figures.
    """

    plan: Plan
    outcomes: tuple[Outcome, ...]
    tables: tuple[Table, ...]


def summarise(outcomes: Sequence[Outcome], plan: Plan) -> Report:
    """Return tables of outcomes; what was planned and not measured has rows without figures.

    Figures of an older version of a server are left out.
    """
    newest: dict[tuple[str, str], Outcome] = {}
    for one in sorted(outcomes, key=lambda one: one.measured):
        newest[one.cell.model, one.cell.peer] = one
    kept = [o for o in outcomes if o.identity == newest[o.cell.model, o.cell.peer].identity]
    groups: dict[tuple[str, str], dict[str, list[Outcome]]] = {}
    for cell in [*plan.cells, *(one.cell for one in kept)]:
        peers = groups.setdefault((cell.model, cell.workload), {})
        peers.setdefault(cell.peer, [])
    for one in kept:
        groups[one.cell.model, one.cell.workload][one.cell.peer].append(one)
    tables = (Table(*key, _rows(*key, peers)) for key, peers in groups.items())
    return Report(plan, tuple(kept), tuple(tables))


def _rows(model: str, workload: str, peers: dict[str, list[Outcome]]) -> tuple[Row, ...]:
    ours = {one.cell.turn: one.rate for one in peers.get(OURS, ()) if one.rate}
    rows = [_row(Row(model, workload, name, "", 0), found, ours) for name, found in peers.items()]
    return tuple(sorted(rows, key=lambda row: -(row.rate or 0)))


def _row(empty: Row, found: list[Outcome], ours: dict[int, float]) -> Row:
    if not found:
        return replace(empty, failure="not measured")
    delays = dict.fromkeys(name_delay(one.delay) for one in found if one.closed_loop)
    base = replace(
        empty,
        version=found[0].version,
        rounds=len(found),
        delay=" or ".join(filter(None, delays)),
        failure=next((one.failure for one in found if one.failure), None),
    )
    rates = [one.rate for one in found if one.rate]
    if len(rates) < len(found):
        return base
    halves = [one.half_p99_ms for one in found if one.half_p99_ms]
    # Within a round, for the machine is not equally fast in all of them.
    ratios = [ours[one.cell.turn] / one.rate for one in found if one.cell.turn in ours and one.rate]
    memory = _median(one.memory for one in found)
    return replace(
        base,
        rate=_median(rates),
        rates=(min(rates), max(rates)),
        half_rate=_median(one.half_rate for one in found),
        half_p99_ms=_median(halves),
        half_p99s_ms=(min(halves), max(halves)) if halves else None,
        half_cpu_ms=_median(one.half_cpu_ms for one in found),
        alone_p50_ms=_median(one.alone_p50_ms for one in found),
        start_seconds=_median(one.start_seconds for one in found),
        memory_mib=None if memory is None else memory / 2**20,
        ratio=None if empty.peer == OURS else _median(ratios),
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def columns(plan: Plan) -> list[str]:
    """Return the heads of the columns."""
    return [one.format(budget=_budget(plan)) for one in COLUMNS]


def _budget(plan: Plan) -> str:
    return f"{plan.settings['latency_budget'] * 1e3:g} ms"


def cells(row: Row) -> list[str]:
    """Return a row as text."""
    if row.rate is None:
        return [row.title, "none" if row.rounds else "not measured", *[""] * (len(COLUMNS) - 2)]
    half = _spread(row.half_p99_ms, row.half_p99s_ms, ".1f", " ms")
    return [
        row.title,
        _spread(row.rate, row.rates, ",.0f"),
        _spread(row.ratio, None, ".2f"),
        f"{half} at {row.half_rate:,.0f}/s" if half and row.half_rate else "",
        _spread(row.half_cpu_ms, None, ".2f", " ms"),
        _spread(row.alone_p50_ms, None, ".2f", " ms"),
        _spread(row.start_seconds, None, ".1f", " s"),
        _spread(row.memory_mib, None, ",.0f", " MiB"),
    ]


def remarks(table: Table) -> list[str]:
    """Return how we compare, and what went wrong."""
    lines = []
    ours, others = table.ours, table.others
    if ours and others:
        fastest = max(others, key=lambda row: row.rate or 0)
        lines.append(
            f"{PEERS[OURS].title} keeps the budget at {fastest.ratio:.2f} times the rate of "
            f"{fastest.title}, the fastest of the others."
        )
        steady = [row for row in others if row.half_p99_ms]
        if ours.half_p99_ms and steady:
            best = min(steady, key=lambda row: row.half_p99_ms or 0)
            lines[0] += (
                f" At half of its own rate, its p99 is {ours.half_p99_ms:.1f} ms; the lowest of "
                f"the others at half of theirs is {best.half_p99_ms:.1f} ms, of {best.title}."
            )
    lines += [f"{row.title}: {_one_line(row.failure)}" for row in table.rows if row.failure]
    return lines


def markdown(report: Report) -> str:
    """Return the tables as Markdown, with the plot that is beside them."""
    lines = [_describe(report), "", "![Rates and latencies of the servers](peers.png)", ""]
    for table in report.tables:
        heads = columns(report.plan)
        lines += [f"**{table.title}**", "", "| " + " | ".join(heads) + " |"]
        lines += ["|---" * len(heads) + "|"]
        lines += ["| " + " | ".join(cells(row)) + " |" for row in table.rows]
        lines += ["", *(f"{line}\n" for line in remarks(table))]
    return "\n".join(lines)


def _describe(report: Report) -> str:
    settings, outcomes = report.plan.settings, report.outcomes
    done = {one.cell for one in outcomes}
    missing = [cell for cell in report.plan.cells if cell not in done]
    times = sorted(one.measured for one in outcomes)
    speeds = [one.machine_ms for one in outcomes if one.machine_ms]
    rounds = len({cell.turn for cell in report.plan.cells})
    parts = [
        f"{settings['machine']}; from {times[0][:16].replace('T', ' ')} to "
        f"{times[-1][:16].replace('T', ' ')} UTC.",
        f"{rounds} round{'s' * (rounds > 1)}, load tests of {settings['duration']:g} s; rates are "
        f"resolved to {settings['precision'] * 100:g} %.",
    ]
    if speeds:
        parts.append(
            f"A fixed computation on one core, before each server's tests, took {min(speeds):.1f} "
            f"to {max(speeds):.1f} ms."
        )
    if missing:
        parts.append(
            f"**{len(missing)} of {len(missing) + len(done)} measurements are missing**: "
            f"{_list(missing)}."
        )
    return " ".join(parts)


def _list(missing: Iterable[Cell]) -> str:
    """Name what is missing, once for all rounds."""
    names = (f"{PEERS[c.peer].title} ({c.model}, {c.workload})" for c in missing)
    return ", ".join(dict.fromkeys(names))


def write_docs(report: Report, page: Path) -> None:
    """Replace the results in a page, and write the plot beside it.

    Raises:
        UsageError: the page has no place for them.
    """
    text = page.read_text(encoding="utf-8")
    head, begin, rest = text.partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    if not (begin and end):
        raise UsageError(f"{page} has no place for results.", f"Add {_BEGIN} and {_END}.")
    plot(report, page.with_name("peers.png"))
    with atomic_write(page) as path:
        whole = f"{head}{begin}\n\n{markdown(report).strip()}\n\n{end}{tail}"
        path.write_text(whole, encoding="utf-8")


def write_csv(report: Report, path: Path) -> None:
    """Write one line for each row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*Row.__dataclass_fields__], lineterminator="\n")
    writer.writeheader()
    for row in (row for table in report.tables for row in table.rows):
        values = asdict(row)
        for key in ("rates", "half_p99s_ms"):
            values[key] = "..".join(f"{one:.4g}" for one in values[key] or ())
        writer.writerow(values)
    with atomic_write(path) as beside:
        beside.write_text(text.getvalue(), encoding="utf-8")


def plot(report: Report, path: Path) -> None:
    """Draw rates and latencies, one line of panels for each table with a rate."""
    shown = [(table, [row for row in table.rows if row.rate]) for table in report.tables]
    shown = [(table, rows) for table, rows in shown if rows]
    if not shown:
        return
    heights = [len(rows) + 1.2 for _, rows in shown]
    figure = new_figure(10, 0.42 * sum(heights) + 0.6)
    axes = figure.subplots(len(shown), 2, squeeze=False, height_ratios=heights)
    for (left, right), (table, rows) in zip(axes, shown, strict=True):
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
            axis.bar_label(
                bars, [form.format(value) if value else "" for value in values], padding=4
            )
            axis.invert_yaxis()
            axis.margins(x=0.15)
            axis.spines[["top", "right"]].set_visible(False)
        left.set_title(table.title, loc="left", fontsize=10)
        right.set_yticklabels([])
    axes[-1][0].set_xlabel(f"queries/s at p99 <= {_budget(report.plan)} (more is better)")
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


def _spread(
    value: float | None, span: tuple[float, float] | None, form: str, unit: str = ""
) -> str:
    if value is None:
        return ""
    text = f"{value:{form}}{unit}"
    if span is None or span[0] == span[1]:
        return text
    return f"{text} ({span[0]:{form}}..{span[1]:{form}})"
