"""What the benchmarks share: their options, the machine, interleaved rounds, tables, JSON.

A shared or throttled machine drifts by tens of percent within minutes, so a contestant is never
timed for long and then the next one. Every round times all contestants shortly, one after the
other, and every second round goes backwards. A ratio is taken within each round, where both sides
had the same machine, and then the median of the ratios: it holds where milliseconds do not.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from delugeserve.system import hardware

_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "nvidia-pytriton")
_PACKAGES += ("tritonclient", "numpy", "pillow")

_BUSY = 0.5  # load average; one that has just become idle takes a minute or two to go below

talk = Console(stderr=True)
# A table in a file or a pipe is not cut at the 80 columns that are assumed there.
out = Console() if sys.stdout.isatty() else Console(width=160)

Samples = Mapping[str, Sequence[float]]
"""One figure for each round, by contestant."""


def options(
    description: str, *, models: Sequence[str] = (), rounds: int, seconds: float | None = None
) -> argparse.ArgumentParser:
    """The options of every benchmark, with this one's defaults."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if models:
        parser.add_argument(
            "--models", type=lambda text: text.split(","), default=list(models), metavar="NAME,NAME"
        )
    parser.add_argument("--rounds", type=int, help=f"default: {rounds}")
    if seconds is not None:
        parser.add_argument(
            "--seconds", type=float, help=f"of a contestant in a round; default: {seconds:g}"
        )
    parser.add_argument("--quick", action="store_true", help="try it out; the figures mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the samples as well")
    parser.set_defaults(usual={"rounds": rounds, "seconds": seconds})
    return parser


def start(
    parser: argparse.ArgumentParser, method: str, packages: Sequence[str] = ()
) -> argparse.Namespace:
    """Parse the options, and print the machine, the versions and the method.

    Args:
        parser: what :func:`options` made.
        method: how it is measured.
        packages: whose versions matter besides the usual ones.
    """
    chosen = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a file shows each table when it is ready
    usual = {"rounds": 1, "seconds": 0.2} if chosen.quick else chosen.usual
    for name, value in usual.items():
        if getattr(chosen, name, None) is None:
            setattr(chosen, name, value)
    chosen.report = {
        "benchmark": Path(sys.argv[0]).stem,
        "command": f"python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".strip(),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": hardware.describe(),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "versions": _versions(packages),
        "method": " ".join(method.split()),
        "rounds": chosen.rounds,
    }
    for key, value in chosen.report.items():
        text = ", ".join(f"{n} {v}" for n, v in value.items()) if key == "versions" else value
        out.print(f"{key.replace('_', ' ')}: {text}", highlight=False, markup=False)
    if chosen.report["load_average_at_start"] > _BUSY and not chosen.quick:
        talk.print("[yellow]warning:[/] this machine is busy with something else; see README.md.")
    if chosen.quick:
        out.print("QUICK: the figures below mean nothing.")
    return chosen


def interleave(
    title: str, contestants: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """Ask every contestant for one figure a round, every second round in reverse order."""
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for index in range(rounds):
        talk.print(f"[dim]{title}: round {index + 1} of {rounds}", highlight=False)
        for name in list(contestants)[:: -1 if index % 2 else 1]:
            samples[name].append(contestants[name]())
    return samples


def milliseconds(infer: Callable[[Any], Any], images: Any, seconds: float) -> float:
    """Mean time of a call: one goes untimed, then as many as there is time for, two at least."""
    infer(images)  # caches and threads were another's until now
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or count < 2:
        infer(images)
        count += 1
    return 1e3 * elapsed / count


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """The median and, in brackets, the quartiles."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return f"{median:{form}} ({low:{form}}..{high:{form}})"


def ratio(samples: Samples, name: str, base: str) -> str:
    """Median and quartiles of the ratios of two contestants, taken within the rounds."""
    return spread(np.divide(samples[name], samples[base]).tolist())


def median_of(samples: Samples, name: str) -> float:
    """A contestant's median."""
    return float(np.median(samples[name]))


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; its first column is text and the others are figures."""
    table = Table()
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    out.print(f"\n[bold]{title}[/]", highlight=False)
    out.print(table)


def finish(chosen: argparse.Namespace, results: Sequence[Mapping[str, Any]]) -> None:
    """Write the report, with every sample, if a file for it was named."""
    if chosen.json:
        whole = {**chosen.report, "quick": chosen.quick, "results": list(results)}
        part = chosen.json.with_name(f"{chosen.json.name}.part")
        part.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        part.replace(chosen.json)
        talk.print(f"wrote {chosen.json}")


def _versions(packages: Sequence[str]) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("delugeserve", *_PACKAGES, *packages):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
