"""A section of `gpu_run.py`: its time, its device and its file of results."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from delugeserve.system.files import atomic_write


@dataclass
class Job:
    """What a section may use, and where it puts its results.

    Attributes:
        name: name of the section.
        folder: folder of the results.
        device: ``cuda`` or ``cpu``.
        seconds: time that the section may take.
        smoke: whether tiny networks and single rounds show that it runs; figures are meaningless.
        results: what was measured so far.
        started: start of the section's clock.
    """

    name: str
    folder: Path
    device: str
    seconds: float
    smoke: bool = False
    results: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def file(self) -> Path:
        """The file of results, which is complete after every call of :meth:`add`."""
        return self.folder / f"{self.name}.json"

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.seconds - (time.monotonic() - self.started)

    def add(self, result: Mapping[str, Any], text: str) -> None:
        """Keep a result, and print it as one line."""
        self.results.append(dict(result))
        with atomic_write(self.file) as path:
            path.write_text(json.dumps(self.results) + "\n", encoding="utf-8")
        print(f"  {text}", flush=True)

    def skip(self, what: str, why: str) -> None:
        """Record that something was not measured."""
        self.add({"skipped": what, "why": why}, f"{what}: skipped, {why}")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or else its type."""
    return f"{error}".strip().partition("\n")[0] or type(error).__name__


def synchronise(device: str) -> None:
    """Wait until the device has done its work."""
    if device == "cuda":
        torch.cuda.synchronize()
