"""The stages of one measurement, with servers and load tests replaced."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from peer_model import IMAGES, MODEL

from benchmarks.peers import measure as module
from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.interface import PIXELS, Batching
from benchmarks.peers.measure import Search, Task, measure
from benchmarks.peers.outcome import Cell
from benchmarks.peers.workload import Workload
from delugeserve.errors import Failure
from delugeserve.load import Scenario, Settings

WORK = Workload(PIXELS, IMAGES, np.zeros((10, 2, 2, 3), np.uint8), np.zeros((10, 4), np.float32))
SEARCH = Search(Settings(), 5.0, 0.1, Batching(), (0.002, 0.0), 2)


@dataclasses.dataclass
class Result:
    """A load test's result, of what is read of it."""

    scheduled_rate: float | None
    valid: bool = True
    images_per_s: float = 0.0
    queries: int = 10
    client_cores: float = 0.1
    load_before: float = 0.0
    reasons: tuple[str, ...] = ()
    percentiles_ms: dict[str, float] = dataclasses.field(
        default_factory=lambda: {"50": 1.0, "99": 9.0}
    )

    def as_json(self):
        return {"rate": self.scheduled_rate}


class World:
    """Peers whose closed loop depends on the delay, and which may die at a rate."""

    def __init__(self, monkeypatch, loops=(1000.0, 1200.0), dies_below=0.0, trials=(True,)):
        self.started: list[float] = []
        self.rates: list[float] = []
        self.ports: list[int] = []
        self._loops = dict(zip((0.002, 0.0), loops, strict=True))
        self._dies_below, self._trials = dies_below, trials
        monkeypatch.setattr(module.servers, "serve", self._serve)
        monkeypatch.setattr(module, "run", self._run)
        monkeypatch.setattr(module, "find_rate", self._find)
        monkeypatch.setattr(module, "identify", lambda _: "same")
        monkeypatch.setattr(module, "time_machine", lambda: 2.5)

    @contextlib.contextmanager
    def _serve(self, peer, launch, workload, log):
        assert launch.folder.is_dir()
        self.started.append(launch.batching.delay)
        self.ports.append(launch.http_port)
        yield SimpleNamespace(
            url="http://x", seconds=1.0, cpu_seconds=lambda: 0.5, memory=lambda: 100
        )

    def _run(self, target, settings, sender):
        if settings.scenario is Scenario.CLOSED_LOOP:
            return Result(None, images_per_s=self._loops[self.started[-1]])
        self.rates.append(settings.rate)
        if settings.rate < self._dies_below:
            raise Failure("It died.", "Start it again.")
        return Result(settings.rate)

    def _find(self, target, settings, *, start, on_trial, **_):
        self.start = start
        for valid in self._trials:
            on_trial(Result(1000.0, valid))
        return SimpleNamespace(rate=1000.0, best=Result(1000.0), alone=Result(None))

    def measure(self, name="litserve"):
        cell = Cell("stub", PIXELS, name, 0)
        return measure(
            Task(cell, PEERS[name], Path("python"), "1.0", MODEL, WORK, Path("log")), SEARCH
        )


def test_a_closed_loop_chooses_the_delay_and_where_to_begin(monkeypatch):
    world = World(monkeypatch)
    outcome = world.measure()
    assert world.started == [0.002, 0.0], "the better one is running already"
    assert outcome.delay == 0.0
    assert outcome.closed_loop == {"2 ms": 1000.0, "0 ms": 1200.0}
    assert world.start == pytest.approx(1020)
    world = World(monkeypatch, loops=(1300.0, 1200.0))
    assert world.measure().delay == 0.002
    assert world.started == [0.002, 0.0, 0.002]


def test_a_server_with_its_own_delay_is_started_once(monkeypatch):
    world = World(monkeypatch, loops=(1000.0, 1000.0))
    outcome = world.measure("delugeserve")
    assert world.started == [0.0]
    assert outcome.delay is None


def test_a_server_that_learns_from_load_starts_anew_after_an_overload(monkeypatch):
    world = World(monkeypatch, loops=(1000.0, 1000.0), trials=[True, False, True])
    assert world.measure("bentoml").failure is None
    assert world.started == [0.0] * 3, "at first, after the closed loop, and after the overload"
    assert len(set(world.ports)) == 1


def test_the_last_test_is_at_half_of_the_rate(monkeypatch):
    world = World(monkeypatch)
    outcome = world.measure()
    assert world.rates == [500]
    assert (outcome.rate, outcome.half_rate, outcome.half_p99_ms) == (1000, 500, 9.0)
    assert (outcome.alone_p50_ms, outcome.memory) == (1.0, 100)
    assert outcome.tests == ({"rate": None}, {"rate": None}, {"rate": 1000}, {"rate": 500})
    assert outcome.failure is None


def test_what_was_found_before_a_server_died_is_kept(monkeypatch):
    outcome = World(monkeypatch, dies_below=600).measure()
    assert outcome.rate == 1000
    assert outcome.half_p99_ms is None
    assert "It died." in (outcome.failure or "")


def test_any_error_is_the_failure_of_one_peer(monkeypatch):
    world = World(monkeypatch)
    monkeypatch.setattr(module, "find_rate", lambda *_, **__: {}["missing"])
    outcome = world.measure()
    assert outcome.failure == "KeyError: 'missing'"
    assert outcome.delay == 0.0
    assert outcome.machine_ms == 2.5
