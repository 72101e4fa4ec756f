"""Measurements of a served model as tables."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from delugeserve.cli.render.console import out, print_table
from delugeserve.system.hardware import cpu_model, usable_cores

if TYPE_CHECKING:
    from delugeserve_client import Measurement


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


def print_measurements(
    measurements: Sequence[Measurement], machine: ClientMachine, title: str
) -> None:
    """Print what the client measured, and where the server spent the time."""
    out.print(str(machine), markup=False)
    print_table(
        ("batch size", "concurrency", "images/s", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "errors"),
        (
            (
                *_pair(m),
                f"{m.images_per_s:,.0f}",
                *_format((m.p50_ms, m.p90_ms, m.p95_ms, m.p99_ms)),
                f"[red]{m.errors}[/]" if m.errors else "0",
            )
            for m in measurements
        ),
        title=title,
        texts=0,
    )
    print_table(
        (
            "batch size",
            "concurrency",
            "queue ms",
            "input ms",
            "infer ms",
            "output ms",
            "mean batch",
        ),
        (
            (
                *_pair(m),
                *_format((m.queue_ms, m.compute_input_ms, m.compute_infer_ms, m.compute_output_ms)),
                f"{m.executed_batch:.1f}",
            )
            for m in measurements
        ),
        title="\nin the server: mean time per request, and mean size of the batches it forms",
        texts=0,
    )


def _pair(measurement: Measurement) -> tuple[str, str]:
    return str(measurement.batch_size), str(measurement.concurrency)


def _format(times: Iterable[float]) -> list[str]:
    return [f"{time:.2f}" for time in times]
