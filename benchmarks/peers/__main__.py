"""Measure the peers; see ``python -m benchmarks.peers --help``."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.peers import environments, options, report
from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.interface import DOCS, Batching, Model
from benchmarks.peers.measure import Search, Task, identify, measure
from benchmarks.peers.outcome import Cell, Outcome, Plan, read_outcome
from benchmarks.peers.workload import find_model, prepare
from delugeserve.errors import DelugeServeError
from delugeserve.load import LoadResult, Settings
from delugeserve.system import hardware
from delugeserve.system.files import atomic_write

_FIRST = 3  # peers that are measured, with all models and workloads, before the others


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
    if chosen.install:
        _find_pythons(chosen)
        return 0
    if chosen.report:
        return _report(chosen)
    models = {name: find_model(chosen.repository, name) for name in chosen.model}
    pythons = _find_pythons(chosen)
    versions = {
        name: environments.find_version(PEERS[name], python) for name, python in pythons.items()
    }
    cells = list(_order(chosen))
    (chosen.output / "cells").mkdir(parents=True, exist_ok=True)
    settings = _settings(chosen)
    Plan.read(chosen.output).extend(settings, cells).write(chosen.output)
    for key, value in _head(versions, settings).items():
        common.out.print(f"{key}: {value}", highlight=False, markup=False)
    try:
        _measure_all(chosen, cells, models, pythons, versions)
    except KeyboardInterrupt:
        _report(chosen)
        return 130
    except SystemExit:
        _report(chosen)
        raise
    return _report(chosen)


def _find_pythons(chosen: argparse.Namespace) -> dict[str, Path]:
    return {name: environments.find_python(PEERS[name], chosen.cache) for name in chosen.peers}


def _measure_all(
    chosen: argparse.Namespace,
    cells: Sequence[Cell],
    models: Mapping[str, Model],
    pythons: Mapping[str, Path],
    versions: Mapping[str, str],
) -> None:
    search = Search(
        Settings(
            duration=chosen.duration,
            latency_budget=chosen.latency_budget,
            percentile=0.9 if chosen.quick else 0.99,
        ),
        chosen.probe,
        chosen.precision,
        Batching(chosen.batch, plain=chosen.plain_engine),
        tuple(chosen.batch_delay),
        len(os.sched_getaffinity(0)),
    )
    work = {
        name: {one.name: one for one in prepare(model, chosen.workloads)}
        for name, model in models.items()
    }
    logs, folder = chosen.output / "logs", chosen.output / "cells"
    logs.mkdir(exist_ok=True)
    started = time.monotonic()
    for number, cell in enumerate(cells, 1):
        path = cell.file(folder)
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
        if kept is not None and not _is_stale(kept, task, retry=chosen.retry_failed):
            continue
        minutes = (time.monotonic() - started) / 60
        if chosen.time_limit is not None and minutes >= chosen.time_limit:
            _say(f"{minutes:.0f} minutes have passed; the same command goes on here.")
            return
        _say(f"{datetime.now():%H:%M:%S} {number}/{len(cells)} {path.stem}")
        outcome = measure(task, search, _print_trial)
        if outcome.failure:
            _say(outcome.failure, style="red")
        outcome.write(folder)


def _is_stale(kept: Outcome, task: Task, *, retry: bool) -> bool:
    """Return whether a cell must be measured again."""
    return kept.identity != identify(task) or (retry and kept.failure is not None)


def _order(chosen: argparse.Namespace) -> Iterator[Cell]:
    """Return the cells, the most important first, in alternating order within a table."""
    for turn in range(chosen.rounds):
        for names in (chosen.peers[:_FIRST], chosen.peers[_FIRST:]):
            for model in chosen.model:
                for workload in chosen.workloads:
                    for name in names[:: -1 if turn % 2 else 1]:
                        if workload in PEERS[name].forms:
                            yield Cell(model, workload, name, turn)


def _say(text: str, style: str | None = None) -> None:
    common.err_console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def _print_trial(result: LoadResult) -> None:
    rate = (
        f"{result.scheduled_rate:7,.0f}/s"
        if result.scheduled_rate
        else f"{result.scenario.value[:9]:>9}"
    )
    verdict = "VALID" if result.valid else f"INVALID: {' '.join(result.reasons)[:90]}"
    _say(
        f"  {rate}: {result.completed_rate:,.0f}/s, p50 {result.percentiles_ms['50']:.1f} ms, p99 "
        f"{result.percentiles_ms['99']:.1f} ms, client {result.client_cores:.2f} cores, {verdict}"
    )


def _head(versions: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "command": f"python -m benchmarks.peers {' '.join(sys.argv[1:])}",
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "load average at start": round(os.getloadavg()[0], 2),
        "versions": versions,
        **settings,
    }


def _settings(chosen: argparse.Namespace) -> dict[str, Any]:
    """Return what must not change between the parts of one measurement."""
    return {
        "machine": hardware.describe(),
        "latency_budget": chosen.latency_budget,
        "duration": chosen.duration,
        "probe": chosen.probe,
        "precision": chosen.precision,
        "batch": chosen.batch,
        "batch_delay": chosen.batch_delay,
        "plain_engine": chosen.plain_engine,
    }


def _report(chosen: argparse.Namespace) -> int:
    plan = Plan.read(chosen.output)
    outcomes = [read_outcome(path) for path in sorted((chosen.output / "cells").glob("*.json"))]
    if not outcomes:
        _say(f"error: nothing was measured in {chosen.output}.")
        return 2
    found = report.summarise(outcomes, plan)
    for table in found.tables:
        common.show(table.title, report.columns(plan), [report.cells(row) for row in table.rows])
        for line in report.remarks(table):
            common.out.print(line, highlight=False, markup=False)
    report.write_csv(found, chosen.output / "peers.csv")
    with atomic_write(chosen.output / "peers.md") as path:
        path.write_text(report.markdown(found), encoding="utf-8")
    report.plot(found, chosen.output / "peers.png")
    if chosen.write_docs:
        report.write_docs(found, DOCS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
