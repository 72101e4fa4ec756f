"""Options, interleaved rounds, tables and reports of all benchmarks.

The speed of a shared or throttled machine drifts by tens of percent within minutes. Each round
therefore times every contestant briefly, and every second round runs in reverse order. Ratios are
taken within a round, under the same conditions for both sides; the median of these ratios is
stable where milliseconds are not.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from delugeserve.serving import procfs
from delugeserve.system import hardware
from delugeserve.system.files import atomic_write

_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "nvidia-pytriton")
_PACKAGES += ("tritonclient", "numpy", "pillow")

_BUSY = 0.5  # load average; it takes a minute or two to fall below this on an idle machine

err_console = Console(stderr=True)
# rich assumes 80 columns for a file or a pipe, and would cut tables there.
out = Console() if sys.stdout.isatty() else Console(width=200)

Samples = Mapping[str, Sequence[float]]
"""One figure per round, by contestant."""


def options(
    description: str, *, models: Sequence[str] = (), rounds: int, seconds: float | None = None
) -> argparse.ArgumentParser:
    """Create the argument parser of a benchmark.

    Args:
        description: the module's docstring.
        models: default of ``--models``; empty for a benchmark without this option.
        rounds: default of ``--rounds``.
        seconds: default of ``--seconds``; None for a benchmark without this option.
    """
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
            "--seconds", type=float, help=f"time per contestant and round; default: {seconds:g}"
        )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one short round; the figures are meaningless",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample")
    parser.set_defaults(usual={"rounds": rounds, "seconds": seconds})
    return parser


def start(
    parser: argparse.ArgumentParser, method: str, packages: Sequence[str] = ()
) -> argparse.Namespace:
    """Parse the options and print the machine, the versions and the method.

    Args:
        parser: from :func:`options`.
        method: description of the method.
        packages: distributions to list with their versions, in addition to the usual ones.

    Returns:
        The parsed options, with the start of the report in ``report``.
    """
    chosen = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # each table reaches a file at once
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
        "versions": versions(packages),
        "method": " ".join(method.split()),
        "rounds": chosen.rounds,
    }
    for key, value in chosen.report.items():
        text = ", ".join(f"{n} {v}" for n, v in value.items()) if key == "versions" else value
        out.print(f"{key.replace('_', ' ')}: {text}", highlight=False, markup=False)
    if chosen.report["load_average_at_start"] > _BUSY and not chosen.quick:
        err_console.print("[yellow]warning:[/] this machine is busy; see README.md.")
    if chosen.quick:
        out.print("QUICK: the figures below are meaningless.")
    return chosen


class Served(NamedTuple):
    """A server that runs.

    Attributes:
        client: tritonclient's gRPC client of it.
        url: its address.
        cpu: returns the CPU time that its processes have used, in seconds.
    """

    client: Any
    url: str
    cpu: Callable[[], float]


def cpu_seconds(session: int) -> float:
    """Return the CPU time that the processes of a session have used, in seconds."""
    nanoseconds = 0
    for pid in procfs.session_members(session):
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with suppress(OSError):  # the thread has ended
                nanoseconds += int(task.read_text().split()[0])
    return nanoseconds / 1e9


@contextmanager
def serving(repository: Path) -> Iterator[Served]:
    """Serve a repository with one bare server."""
    import tritonclient.grpc

    from delugeserve import serve
    from delugeserve_client.address import parse_address
    from delugeserve_client.triton import channel_arguments

    bare = {"grpc_port": 0, "http_port": None, "metrics_port": None, "direct": True}
    with serve(repository, **bare) as server:
        arguments = channel_arguments(parse_address(server.grpc_url))
        client = tritonclient.grpc.InferenceServerClient(server.grpc_url, channel_args=arguments)
        with closing(client):
            yield Served(client, server.grpc_url, partial(cpu_seconds, server.session))


def interleave(
    title: str,
    contestants: Mapping[str, Callable[[], float]],
    rounds: int,
    *,
    quiet: bool = False,
) -> dict[str, list[float]]:
    """Take one figure per contestant and round, every second round in reverse order."""
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for index in range(rounds):
        if not quiet:
            err_console.print(f"[dim]{title}: round {index + 1} of {rounds}", highlight=False)
        for name in list(contestants)[:: -1 if index % 2 else 1]:
            samples[name].append(contestants[name]())
    return samples


def milliseconds(infer: Callable[[Any], Any], images: Any, seconds: float) -> float:
    """Return the mean time of a call, after one warm-up call: at least two calls are timed."""
    infer(images)  # warm up: the contestant before has filled the caches
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or count < 2:
        infer(images)
        count += 1
    return 1e3 * elapsed / count


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Format the median with the quartiles in brackets."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return f"{median:{form}} ({low:{form}}..{high:{form}})"


def ratio(samples: Samples, name: str, base: str) -> str:
    """Format the ratio of two contestants, taken within each round: median and quartiles."""
    return spread(np.divide(samples[name], samples[base]).tolist())


def median_of(samples: Samples, name: str) -> float:
    """Return the median of a contestant."""
    return float(np.median(samples[name]))


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: text in the first column, figures in the others, which wrap if they must."""
    table = Table()
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=not index)
    for row in rows:
        table.add_row(*row)
    out.print(f"\n[bold]{title}[/]", highlight=False)
    out.print(table)


def finish(chosen: argparse.Namespace, results: Sequence[Mapping[str, Any]]) -> None:
    """Write the report with every sample, if ``--json`` was given."""
    if chosen.json:
        report = {**chosen.report, "quick": chosen.quick, "results": list(results)}
        with atomic_write(chosen.json) as path:
            path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        err_console.print(f"wrote {chosen.json}")


def versions(packages: Sequence[str] = ()) -> dict[str, str]:
    """Return the versions of Python, of the usual distributions and of these."""
    found = {"python": platform.python_version()}
    for package in ("delugeserve", *_PACKAGES, *packages):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
