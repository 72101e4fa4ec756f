"""Options of the benchmark."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from pathlib import Path

from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.environments import default_cache
from benchmarks.peers.interface import DOCS, WORKLOADS
from delugeserve.errors import UsageError
from delugeserve.load.budget import parse_budget, parse_duration


def seconds(text: str) -> float:
    """Read a time such as ``100ms`` or ``2s``, as ``delugeserve benchmark`` does."""
    try:
        return parse_budget(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def duration(text: str) -> float:
    """Read how long a test lasts; a bare number is seconds, as in ``delugeserve benchmark``."""
    try:
        return parse_duration(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def delays(text: str) -> list[float]:
    """Read times with commas between them; 0 is one."""
    return [0.0 if one.strip() == "0" else seconds(one) for one in text.split(",")]


def names(known: Collection[str], what: str) -> Callable[[str], list[str]]:
    """Return a reader of names with commas between them."""

    def read(text: str) -> list[str]:
        found = list(dict.fromkeys(one.strip() for one in text.split(",") if one.strip()))
        for name in found:
            if name not in known:
                listed = ", ".join(known)
                raise argparse.ArgumentTypeError(f"there is no {what} '{name}': {listed}")
        return found

    return read


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--model", action="append", help="repeatable; default: delugenet38")
    parser.add_argument("--peers", type=names(PEERS, "peer"), default=list(PEERS))
    parser.add_argument("--workloads", type=names(WORKLOADS, "workload"), default=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-budget", type=seconds, default=0.1, metavar="TIME")
    parser.add_argument(
        "--duration", type=duration, default=10.0, metavar="SECONDS", help="of each load test"
    )
    parser.add_argument(
        "--probe", type=duration, default=5.0, metavar="SECONDS", help="of a closed loop"
    )
    parser.add_argument("--precision", type=float, default=0.05, help="of the rate, as a share")
    parser.add_argument("--batch", type=int, default=32, help="largest batch of the peers")
    parser.add_argument(
        "--batch-delay",
        type=delays,
        default=[0.002],
        metavar="TIME,TIME",
        help="how long the peers wait for more images; a closed loop chooses the best",
    )
    parser.add_argument(
        "--plain-engine",
        action="store_true",
        help="the peers run OpenVINO as its documentation shows, not by the engine of our server",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--cache", type=Path, default=default_cache(), metavar="FOLDER")
    parser.add_argument(
        "--time-limit",
        type=float,
        metavar="MINUTES",
        help="begin with no further peer after this time; the same command goes on",
    )
    parser.add_argument(
        "--write-docs",
        action="store_true",
        help=f"write tables and plot into {DOCS.parent.name}/{DOCS.name} too",
    )
    parser.add_argument("--install", action="store_true", help="install the peers, and end")
    parser.add_argument("--retry-failed", action="store_true", help="measure what failed again")
    parser.add_argument("--report", action="store_true", help="only tables of what was measured")
    parser.add_argument("--quick", action="store_true", help="the figures are meaningless")
    chosen = parser.parse_args(arguments)
    chosen.model = chosen.model or ["delugenet38"]
    if chosen.quick:
        chosen.rounds, chosen.precision = 1, 0.5
        chosen.duration = chosen.probe = 2.0
    return chosen
