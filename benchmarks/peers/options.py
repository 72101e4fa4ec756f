"""Options of the benchmark."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.environments import default_cache
from benchmarks.peers.interface import WORKLOADS

_UNITS = {"ms": 1e-3, "s": 1.0}


def seconds(text: str) -> float:
    """Read a duration such as ``100ms`` or ``2s``; a number alone is in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)?", text.strip())
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"'{text}' is not a duration such as 100ms or 2s")
    return float(match[1]) * _UNITS[match[2] or "s"]


def names(known: object, what: str) -> object:
    """Return a reader of names with commas between them."""

    def read(text: str) -> list[str]:
        found = list(dict.fromkeys(one.strip() for one in text.split(",") if one.strip()))
        for name in found:
            if name not in known:  # type: ignore[operator]
                listed = ", ".join(known)  # type: ignore[call-overload]
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
    parser.add_argument("--duration", type=seconds, default=10.0, help="of a load test")
    parser.add_argument("--precision", type=float, default=0.05)
    parser.add_argument("--batch", type=int, default=32, help="largest batch of the peers")
    parser.add_argument("--batch-delay", type=seconds, default=0.002, metavar="TIME")
    parser.add_argument(
        "--plain-engine",
        action="store_true",
        help="the peers run OpenVINO as its documentation shows, not by the engine of our server",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--cache", type=Path, default=default_cache(), metavar="FOLDER")
    parser.add_argument("--install", action="store_true", help="install the peers, and end")
    parser.add_argument("--report", action="store_true", help="only tables of what was measured")
    parser.add_argument("--quick", action="store_true", help="the figures are meaningless")
    chosen = parser.parse_args(arguments)
    chosen.model = chosen.model or ["delugenet38"]
    if chosen.quick:
        chosen.rounds, chosen.duration, chosen.precision = 1, 2.0, 0.5
    return chosen
