"""Load tests of a served model as tables and lines."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from rich.markup import escape

from delugeserve.cli.render.console import err_console, out, print_table, print_warning
from delugeserve.system.hardware import cpu_model, usable_cores

if TYPE_CHECKING:
    from delugeserve.load import LoadResult
    from delugeserve.load.audit import CacheAudit
    from delugeserve.load.rows import Row
    from delugeserve.load.waterfall import Step

_PERCENTILES = ("50", "90", "95", "99", "99.9")


@dataclass(frozen=True)
class ClientMachine:
    """The machine that measured.

    Attributes:
        cpu: the CPU's name.
        cores: number of cores that this process may use.
        memory_gib: memory in GiB; None where the system does not report it.
        platform: the operating system.
        python: Python's version.
        tritonclient: tritonclient's version.
        triton: version of the Triton Inference Server.
    """

    cpu: str
    cores: int
    memory_gib: float | None
    platform: str
    python: str
    tritonclient: str
    triton: str

    @classmethod
    def here(cls, server_version: str) -> ClientMachine:
        """Describe this machine and the server's version."""
        try:
            pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            memory: float | None = round(pages / 2**30, 1)
        except (ValueError, OSError, AttributeError):
            memory = None
        return cls(
            cpu_model(),
            usable_cores(),
            memory,
            platform.platform(),
            platform.python_version(),
            version("tritonclient"),
            server_version,
        )

    def __str__(self) -> str:
        memory = f", {self.memory_gib} GiB" if self.memory_gib else ""
        return (
            f"client: {self.cpu}, {self.cores} cores{memory}, Python {self.python}, "
            f"tritonclient {self.tritonclient}\n"
            f"server: Triton {self.triton}"
        )


def print_rows(rows: Sequence[Row], machine: ClientMachine, title: str) -> None:
    """Print what the client measured, where the server spent the time, and what to doubt."""
    results = [result for row in rows for result in row.results]
    out.print(str(machine), markup=False)
    out.print(_describe_load(results), markup=False)
    rated = any(row.first.scheduled_rate for row in rows)
    print_table(
        (
            *_HEADINGS,
            *(("scheduled/s", "completed/s") if rated else ("images/s",)),
            *(f"p{percentile} ms" for percentile in _PERCENTILES),
            "max ms",
            "errors",
            "wrong",
            "verdict",
        ),
        ((*_name(row), *_figures(row, rated=rated)) for row in rows),
        title=escape(title),
        texts=1,
    )
    _print_server(rows)
    for row in rows:
        for reason in row.reasons:
            print_warning(f"{row.name}: {reason}")
    for limit in dict.fromkeys(result.client_limit for result in results):
        if limit:
            print_warning(f"{limit} The client or its machine may be the limit, not the server.")


_HEADINGS = ("scenario", "batch size", "in flight")


def _name(row: Row) -> tuple[str, ...]:
    in_flight = row.first.in_flight
    return (
        row.first.scenario.value,
        str(row.first.batch_size),
        "" if in_flight is None else str(in_flight),
    )


def _figures(row: Row, *, rated: bool) -> Iterable[str]:
    if rated:
        yield f"{row.mean_of(lambda result: result.scheduled_rate or 0):,.4g}"
        yield f"{row.mean_of(lambda result: result.completed_rate):,.4g}"
    else:
        width = row.half_width(lambda result: result.images_per_s)
        confidence = "" if width is None else f" ± {width:,.0f}"
        yield f"{row.mean_of(lambda result: result.images_per_s):,.0f}{confidence}"
    for name, value in row.percentiles_ms().items():
        width = row.half_width(lambda result, name=name: result.percentiles_ms[name])  # type: ignore[misc]
        yield f"{value:.2f}" if width is None else f"{value:.2f} ± {width:.2f}"
    yield f"{row.max_ms:.2f}"
    yield _count(row.errors)
    yield _count(row.wrong)
    yield f"[{'green' if row.valid else 'red'}]{row.verdict}[/]"


def _count(bad: int) -> str:
    return f"[red]{bad:,}[/]" if bad else "0"


def _print_server(rows: Sequence[Row]) -> None:
    """Print the server's own figures, where it tells them."""
    told = [(row, split) for row in rows if (split := row.first.server) is not None]
    if not told:
        return
    print_table(
        (*_HEADINGS, "queue ms", "input ms", "infer ms", "output ms", "mean batch"),
        (
            (
                *_name(row),
                f"{split.queue_ms:.2f}",
                f"{split.compute_input_ms:.2f}",
                f"{split.compute_infer_ms:.2f}",
                f"{split.compute_output_ms:.2f}",
                f"{split.executed_batch:.1f}",
            )
            for row, split in told
        ),
        title="\nin the server: mean time per request, and mean size of the batches it forms",
        texts=1,
    )


def _describe_load(results: Sequence[LoadResult]) -> str:
    before, after = results[0].load_before, results[-1].load_after
    cores = max(result.client_cores for result in results)
    load = "" if before is None or after is None else f"{before:.2f} before, {after:.2f} after; "
    return f"load average: {load}the client used up to {cores:.2f} cores"


def print_trial(result: LoadResult) -> None:
    """Print one line about a test of a search, on standard error."""
    rate = result.scheduled_rate or result.completed_rate
    verdict = "[green]VALID[/]" if result.valid else "[red]INVALID[/]"
    err_console.print(
        f"{result.scenario.value:<14}{rate:>9,.4g}/s  "
        f"p{result.percentile * 100:g} {result.at_percentile_ms:>8.2f} ms  {verdict}"
    )


def print_audit(audit: CacheAudit) -> None:
    """Print whether the server seems to remember answers."""
    text = f"The same image again and again is {audit.speed_up:.2f} times as fast."
    if audit.suspicious:
        print_warning(f"{text} The server seems to remember answers; the figures are not valid.")
    else:
        out.print(f"cache: none seen. {text}")


def print_waterfall(model: str, steps: Sequence[Step]) -> None:
    """Print what each step adds to the time of one image."""
    whole = steps[-1].total_ms
    print_table(
        ("up to and with", "ms", "added ms", "share"),
        (
            (
                step.name,
                f"{step.total_ms:.3f}",
                f"{step.added_ms:+.3f}",
                f"{step.added_ms / whole:.0%}",
            )
            for step in steps
        ),
        title=f"{escape(model)}: where the time of one image goes, one request at a time",
    )
