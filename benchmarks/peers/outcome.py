"""What was found of a peer in one workload, as it is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from delugeserve.errors import UsageError
from delugeserve.system.files import atomic_write


@dataclass(frozen=True)
class Cell:
    """One figure of the tables, in one round.

    Attributes:
        model: the model's name.
        workload: the workload's name.
        peer: the peer's name.
        turn: the round, from 0.
    """

    model: str
    workload: str
    peer: str
    turn: int

    def file(self, folder: Path) -> Path:
        """Return where its outcome is kept."""
        return folder / f"{self.model}-{self.workload}-{self.peer}-{self.turn}.json"


@dataclass(frozen=True)
class Outcome:
    """What was found for a cell.

    Attributes:
        cell: the cell.
        version: version of the peer.
        identity: digest of all that decides the figures, see :func:`identify`.
        measured: when it was begun, in ISO 8601.
        seconds: how long that took.
        delay: seconds that the peer waits for more images; None if it is not told.
        closed_loop: images/s of a closed loop, by each delay that was tried.
        rate: highest rate of arrivals, in queries/s, that keeps the latency budget; None if none
            does.
        p99_ms: 99th percentile of the latency at this rate.
        half_rate: half of this rate, as it was scheduled.
        half_p50_ms: median latency at half of the rate.
        half_p99_ms: 99th percentile there.
        half_cpu_ms: CPU time of the server for a query there, with that of the warm-up.
        alone_p50_ms: median latency of one request at a time.
        client_cores: cores that the client used at the highest rate.
        start_seconds: from the start of the server to its first answer.
        memory: memory of the server's processes, in bytes, after the test.
        load: load average of the machine (1 minute) before the first test.
        machine_ms: time of a fixed computation on one core before the first test.
        failure: why there is no rate.
        tests: every load test, as :class:`delugeserve.load.LoadResult` writes it.
    """

    cell: Cell
    version: str
    identity: str = ""
    measured: str = ""
    seconds: float | None = None
    delay: float | None = None
    closed_loop: dict[str, float] = field(default_factory=dict)
    rate: float | None = None
    p99_ms: float | None = None
    half_rate: float | None = None
    half_p50_ms: float | None = None
    half_p99_ms: float | None = None
    half_cpu_ms: float | None = None
    alone_p50_ms: float | None = None
    client_cores: float | None = None
    start_seconds: float | None = None
    memory: int | None = None
    load: float | None = None
    machine_ms: float | None = None
    failure: str | None = None
    tests: tuple[dict[str, Any], ...] = ()

    def write(self, folder: Path) -> None:
        """Keep it, atomically."""
        with atomic_write(self.cell.file(folder)) as path:
            path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read_outcome(path: Path) -> Outcome:
    """Read an outcome that was kept."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return Outcome(**{**values, "cell": Cell(**values["cell"]), "tests": tuple(values["tests"])})


def name_delay(delay: float | None) -> str:
    """Return a delay for a reader; nothing for a peer that is not told one."""
    return "" if delay is None else f"{delay * 1e3:g} ms"


@dataclass(frozen=True)
class Plan:
    """What a folder of outcomes is about.

    Attributes:
        settings: what is the same for all of its cells.
        cells: those to measure, in all the parts of the measurement.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    cells: tuple[Cell, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """Read a folder's plan; an empty one if it has none."""
        path = folder / "plan.json"
        if not path.exists():
            return cls()
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(values["settings"], tuple(Cell(**one) for one in values["cells"]))

    def extend(self, settings: dict[str, Any], cells: Sequence[Cell]) -> Plan:
        """Return a plan with further cells.

        Raises:
            UsageError: it has other settings.
        """
        if self.settings and self.settings != settings:
            names = [key for key in settings if self.settings.get(key) != settings[key]]
            raise UsageError(
                f"The folder was measured with other settings: {', '.join(names)}.",
                "Use another --output folder.",
            )
        return Plan(settings, tuple(dict.fromkeys([*self.cells, *cells])))

    def write(self, folder: Path) -> None:
        """Write it, atomically."""
        with atomic_write(folder / "plan.json") as path:
            path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
