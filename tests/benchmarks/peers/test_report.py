"""Outcomes are kept, and become rows, tables and plots."""

from __future__ import annotations

import csv

import pytest
from PIL import Image

from benchmarks.peers import report
from benchmarks.peers.interface import DOCS, GRPC, PIXELS
from benchmarks.peers.outcome import Cell, Outcome, Plan, read_outcome
from delugeserve.errors import UsageError

pytest.importorskip("matplotlib", reason="the plot needs the extra 'benchmark'")


SETTINGS = {
    "machine": "a machine",
    "latency_budget": 0.1,
    "duration": 10.0,
    "precision": 0.1,
}


def cell(peer: str, turn: int = 0, workload: str = PIXELS) -> Cell:
    return Cell("delugenet38", workload, peer, turn)


def outcome(peer: str, turn: int, rate: float | None, **more: object) -> Outcome:
    half = None if rate is None else rate / 2
    return Outcome(
        cell(peer, turn),
        "1.0",
        **{
            "identity": "x",
            "measured": f"2026-11-28T10:2{turn}:00+00:00",
            "closed_loop": {"": 5.0},
            "rate": rate,
            "half_rate": half,
            "half_p99_ms": None if rate is None else 8.0 + turn,
            "half_cpu_ms": 0.9,
            "alone_p50_ms": 1.5,
            "start_seconds": 3.0,
            "memory": 2**20,
            "machine_ms": 2.5 + turn,
            **more,
        },
    )


OUTCOMES = [
    outcome("delugeserve", 0, 1300),
    outcome("litserve", 0, 1000),
    outcome("delugeserve", 1, 2000),
    outcome("litserve", 1, 1000),
    outcome("delugeserve", 2, 1400),
    outcome("litserve", 2, 700),
    outcome("ray", 0, None, failure="It keeps no rate."),
]
PLAN = Plan(SETTINGS, (*(one.cell for one in OUTCOMES), cell("bentoml"), cell("mlserver", 0, GRPC)))
REPORT = report.summarise(OUTCOMES, PLAN)


def summarise(*outcomes: Outcome) -> report.Table:
    (table,) = report.summarise(outcomes, Plan(SETTINGS)).tables
    return table


def test_an_outcome_is_read_as_it_was_written(tmp_path):
    written = outcome("litserve", 1, 1000, tests=({"valid": True},))
    written.write(tmp_path)
    assert read_outcome(written.cell.file(tmp_path)) == written


def test_ratios_are_taken_within_rounds():
    rows = {row.peer: row for row in REPORT.tables[0].rows}
    assert rows["litserve"].rate == 1000
    assert rows["litserve"].rates == (700, 1000)
    assert rows["litserve"].ratio == 2.0, "the median of 1.3, 2 and 2"
    assert rows["litserve"].half_p99_ms == 9.0
    assert rows["delugeserve"].ratio is None
    assert rows["ray"].rate is None
    assert rows["ray"].failure == "It keeps no rate."


def test_the_fastest_comes_first_and_those_without_a_rate_last():
    found = [row.peer for row in REPORT.tables[0].rows]
    assert found == ["delugeserve", "litserve", "ray", "bentoml"]


def test_a_row_names_the_delays_that_were_taken():
    (row,) = summarise(outcome("ray", 0, 500, delay=0.002), outcome("ray", 1, 600, delay=0.0)).rows
    assert row.title == "Ray Serve 1.0, 2 ms or 0 ms"


def test_what_was_planned_and_is_missing_is_named():
    assert [(t.workload, len(t.rows)) for t in REPORT.tables] == [(PIXELS, 4), (GRPC, 1)]
    text = report.markdown(REPORT)
    assert "| BentoML | not measured |" in text
    assert "**2 of 9 measurements are missing**: BentoML (delugenet38, pixels), MLServer" in text


def test_the_table_names_budget_spread_rates_and_machine():
    text = report.markdown(REPORT)
    assert "p99 <= 100 ms" in text
    assert "1,000 (700..1,000)" in text
    assert "9.0 ms (8.0..10.0) at 500/s" in text
    assert "| Ray Serve 1.0 | none |" in text
    assert "to 10 %" in text
    assert "took 2.5 to 4.5 ms" in text


def test_a_server_that_is_faster_than_ours_is_named():
    table = summarise(
        outcome("delugeserve", 0, 900, half_p99_ms=9.0),
        outcome("ray", 0, 1000, half_p99_ms=12.0),
        outcome("fastapi", 0, 500, half_p99_ms=4.0),
    )
    (line,) = report.remarks(table)
    assert "0.90 times the rate of Ray Serve 1.0" in line
    assert "p99 is 9.0 ms" in line
    assert "4.0 ms, of FastAPI" in line


def test_a_rate_without_a_test_at_half_of_it_is_shown():
    table = summarise(outcome("ray", 0, 500, half_p99_ms=None, failure="It ended."))
    assert report.cells(table.rows[0])[1:4] == ["500", "", ""]
    assert report.remarks(table) == ["Ray Serve 1.0: It ended."]


def test_figures_of_an_older_version_do_not_count():
    (row,) = summarise(outcome("ray", 0, 500, identity="old"), outcome("ray", 1, 600)).rows
    assert (row.rate, row.rounds) == (600, 1)


def test_csv_and_plot(tmp_path):
    report.write_csv(REPORT, tmp_path / "peers.csv")
    with (tmp_path / "peers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["rate"] for row in rows] == ["1400.0", "1000.0", "", "", ""]
    report.plot(REPORT, tmp_path / "peers.png")
    with Image.open(tmp_path / "peers.png") as picture:
        assert picture.width == 1500


def test_without_any_rate_there_is_no_plot(tmp_path):
    report.plot(report.summarise(OUTCOMES[-1:], PLAN), tmp_path / "peers.png")
    assert not (tmp_path / "peers.png").exists()


def test_results_are_written_into_the_page_again_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "plot", lambda _, path: path.touch())
    page = tmp_path / "peers.md"
    page.write_text(DOCS.read_text(encoding="utf-8"), encoding="utf-8")
    report.write_docs(REPORT, page)
    once = page.read_text(encoding="utf-8")
    assert once.startswith(DOCS.read_text(encoding="utf-8")[:2000])
    assert report.markdown(REPORT).strip() in once
    report.write_docs(REPORT, page)
    assert page.read_text(encoding="utf-8") == once
    assert (tmp_path / "peers.png").exists()


def test_a_page_without_a_place_for_results_stays_as_it_is(tmp_path):
    page = tmp_path / "peers.md"
    page.write_text("# Page")
    with pytest.raises(UsageError):
        report.write_docs(REPORT, page)
    assert page.read_text() == "# Page"
