"""Measure the peers; see ``python -m benchmarks.peers --help``."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.peers import environments, options, report
from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.interface import Batching, Model
from benchmarks.peers.measure import Cell, Outcome, Search, Task, identify, measure, read_outcome
from benchmarks.peers.workload import find_model, prepare
from delugeserve.errors import DelugeServeError
from delugeserve.load import LoadResult, Settings
from delugeserve.system import hardware
from delugeserve.system.files import atomic_write

METHOD = """Every peer serves the same artefact with the same engine, decoder and number of threads,
set up as its own documentation advises, on loopback, one peer at a time. MLPerf LoadGen (server
scenario) sends single images at random times (a Poisson process); latency counts from when a
request was scheduled. The rate is doubled, and then bisected, to the highest at which the 99th
percentile keeps the budget with 99 % confidence, no request fails and no answer is wrong; then one
test runs at half of that. Every answer is compared with the engine's own. The order of the peers is
reversed in every second round. Client and servers share the cores."""


def main(arguments: list[str] | None = None) -> int:
    chosen = options.parse(arguments)
    try:
        return _run(chosen)
    except (DelugeServeError, environments.InstallError) as error:
        common.err_console.print(f"error: {error}", highlight=False, markup=False)
        return 2


def _run(chosen: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is ended first
    cells = chosen.output / "cells"
    cells.mkdir(parents=True, exist_ok=True)
    if not chosen.report:
        wanted = [] if chosen.install else chosen.model
        models = {name: find_model(chosen.repository, name) for name in wanted}
        pythons = {
            name: environments.find_python(PEERS[name], chosen.cache) for name in chosen.peers
        }
        if chosen.install:
            return 0
        versions = {
            name: environments.find_version(PEERS[name], python) for name, python in pythons.items()
        }
        head = _head(chosen, versions)
        _keep_settings(chosen.output, head["settings"])
        for key, value in head.items():
            common.out.print(f"{key}: {value}", highlight=False, markup=False)
        _measure_all(chosen, models, pythons, versions, cells)
    _report(chosen, cells)
    return 0


def _measure_all(
    chosen: argparse.Namespace,
    models: dict[str, Model],
    pythons: dict[str, Path],
    versions: dict[str, str],
    cells: Path,
) -> None:
    search = Search(
        Settings(
            duration=chosen.duration,
            latency_budget=chosen.latency_budget,
            percentile=0.9 if chosen.quick else 0.99,
        ),
        chosen.precision,
        Batching(chosen.batch, plain=chosen.plain_engine),
        len(os.sched_getaffinity(0)),
    )
    work = {
        name: {one.name: one for one in prepare(model, chosen.workloads)}
        for name, model in models.items()
    }
    logs = chosen.output / "logs"
    logs.mkdir(exist_ok=True)
    hints: dict[Cell, float] = {}
    for cell in _order(chosen):
        path, first = cell.file(cells), replace(cell, turn=0)
        task = Task(
            cell,
            PEERS[cell.peer],
            pythons[cell.peer],
            versions[cell.peer],
            models[cell.model],
            work[cell.model][cell.workload],
            logs / f"{path.stem}.log",
        )
        kept = read_outcome(path) if path.exists() else None
        if kept is None or _is_stale(kept, task, retry=chosen.retry_failed):
            common.err_console.print(f"{datetime.now():%H:%M:%S} {path.stem}", highlight=False)
            kept = measure(task, search, start=hints.get(first), on_trial=_print_trial)
            if kept.failure:
                common.err_console.print(kept.failure, style="red", markup=False, highlight=False)
            kept.write(cells)
        if kept.rate:
            hints[first] = kept.rate


def _is_stale(kept: Outcome, task: Task, *, retry: bool) -> bool:
    """Return whether a cell must be measured again."""
    return kept.identity != identify(task) or (retry and kept.failure is not None)


def _order(chosen: argparse.Namespace) -> Iterator[Cell]:
    """Return the cells: the peers of a table one after the other, in alternating order."""
    for turn in range(chosen.rounds):
        for model in chosen.model:
            for workload in chosen.workloads:
                for name in chosen.peers[:: -1 if turn % 2 else 1]:
                    if workload in PEERS[name].forms:
                        for delay in chosen.batch_delay if PEERS[name].delayed else [None]:
                            yield Cell(model, workload, name, turn, delay)


def _print_trial(result: LoadResult) -> None:
    rate = f"{result.scheduled_rate:7,.0f}/s" if result.scheduled_rate else f"{'alone':>9}"
    verdict = "VALID" if result.valid else f"INVALID: {' '.join(result.reasons)[:90]}"
    common.err_console.print(
        f"  {rate}: p50 {result.percentiles_ms['50']:.1f} ms, p99 "
        f"{result.percentiles_ms['99']:.1f} ms, client {result.client_cores:.2f} cores, {verdict}",
        highlight=False,
        markup=False,
    )


def _head(chosen: argparse.Namespace, versions: dict[str, str]) -> dict[str, Any]:
    return {
        "command": f"python -m benchmarks.peers {' '.join(sys.argv[1:])}",
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": hardware.describe(),
        "load average at start": round(os.getloadavg()[0], 2),
        "versions": versions,
        "method": " ".join(METHOD.split()),
        "settings": {
            "machine": hardware.describe(),
            "latency_budget": chosen.latency_budget,
            "duration": chosen.duration,
            "precision": chosen.precision,
            "batch": chosen.batch,
            "plain_engine": chosen.plain_engine,
        },
    }


def _keep_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write what must not change between the parts of one measurement; compare if it is there."""
    path = folder / "settings.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before != settings:
            sys.exit(
                f"error: {folder} was measured with other settings: {before}. "
                "Use another --output folder."
            )
        return
    with atomic_write(path) as beside:
        beside.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _report(chosen: argparse.Namespace, cells: Path) -> None:
    outcomes = [read_outcome(path) for path in sorted(cells.glob("*.json"))]
    if not outcomes:
        sys.exit(f"error: nothing was measured in {chosen.output}.")
    tables = report.summarise(outcomes)
    budget = json.loads((chosen.output / "settings.json").read_text())["latency_budget"]
    for key, rows in tables.items():
        common.show(report.title(key), report.columns(budget), [report.cells(row) for row in rows])
        for row in rows:
            if row.failure:
                text = f"{row.title}: {row.failure}"
                common.out.print(text, style="red", highlight=False, markup=False)
    report.write_csv(tables, chosen.output / "peers.csv")
    with atomic_write(chosen.output / "peers.md") as path:
        path.write_text(report.markdown(tables, budget), encoding="utf-8")
    report.plot(tables, budget, chosen.output / "peers.png")


if __name__ == "__main__":
    sys.exit(main())
