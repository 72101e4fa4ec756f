"""Outcomes are kept, and become rows, tables and plots."""

from __future__ import annotations

import argparse
import csv
import dataclasses

import pytest
from PIL import Image

from benchmarks.peers import options, report
from benchmarks.peers.interface import GRPC, JPEG, PIXELS
from benchmarks.peers.measure import Cell, Outcome, read_outcome

pytest.importorskip("matplotlib", reason="the plot needs the extra 'benchmark'")


def outcome(peer: str, turn: int, rate: float | None, **more: object) -> Outcome:
    cell = Cell("delugenet38", PIXELS, peer, turn)
    found = Outcome(
        cell,
        "1.0",
        "x",
        rate,
        90.0,
        (rate or 0) / 2,
        5.0,
        8.0 + turn,
        0.9,
        1.5,
        0.2,
        3.0,
        2**20,
        0.1,
    )
    return dataclasses.replace(found, **more)


OUTCOMES = [
    outcome("delugeserve", 0, 1300),
    outcome("litserve", 0, 1000),
    outcome("delugeserve", 1, 2000),
    outcome("litserve", 1, 1000),
    outcome("delugeserve", 2, 1400),
    outcome("litserve", 2, 700),
    outcome("ray", 0, None, failure="It keeps no rate."),
]
KEY = ("delugenet38", PIXELS)


def test_an_outcome_is_read_as_it_was_written(tmp_path):
    written = outcome("litserve", 1, 1000, tests=({"valid": True},))
    written.write(tmp_path)
    assert read_outcome(written.cell.file(tmp_path)) == written


def test_ratios_are_taken_within_rounds():
    rows = {row.peer: row for row in report.summarise(OUTCOMES)[KEY]}
    assert rows["litserve"].rate == 1000
    assert rows["litserve"].rates == (700, 1000)
    assert rows["litserve"].ratio == 2.0, "the median of 1.3, 2 and 2"
    assert rows["litserve"].half_p99_ms == 9.0
    assert rows["delugeserve"].ratio is None
    assert rows["ray"].rate is None
    assert rows["ray"].failure == "It keeps no rate."


def test_the_delay_that_suits_a_peer_best_counts():
    def of(delay: float, rate: float | None) -> Outcome:
        found = outcome("ray", 0, rate)
        return dataclasses.replace(found, cell=dataclasses.replace(found.cell, delay=delay))

    (row,) = report.summarise([of(0.002, 500), of(0.0, 600), of(0.005, None)])[KEY]
    assert (row.rate, row.title) == (600, "Ray Serve 1.0, 0 ms")


def test_the_fastest_comes_first_and_one_without_a_rate_last():
    assert [row.peer for row in report.summarise(OUTCOMES)[KEY]] == [
        "delugeserve",
        "litserve",
        "ray",
    ]


def test_the_table_names_budget_and_spread():
    text = report.markdown(report.summarise(OUTCOMES), 0.1)
    assert "p99 <= 100 ms" in text
    assert "1,000 (700..1,000)" in text
    assert "| Ray Serve 1.0 | none |" in text


def test_csv_and_plot(tmp_path):
    tables = report.summarise(OUTCOMES)
    report.write_csv(tables, tmp_path / "peers.csv")
    with (tmp_path / "peers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["rate"] for row in rows] == ["1400.0", "1000.0", ""]
    report.plot(tables, 0.1, tmp_path / "peers.png")
    with Image.open(tmp_path / "peers.png") as picture:
        assert picture.width == 1500


def test_without_any_rate_there_is_no_plot(tmp_path):
    report.plot(report.summarise(OUTCOMES[-1:]), 0.1, tmp_path / "peers.png")
    assert not (tmp_path / "peers.png").exists()


@pytest.mark.parametrize(("text", "value"), [("100ms", 0.1), ("2s", 2), ("50", 0.05)])
def test_durations(text, value):
    assert options.seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "0ms", "-1s", "fast", "1h"])
def test_what_is_not_a_duration_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        options.seconds(text)


def test_options():
    chosen = options.parse(
        [
            "--output",
            "x",
            "--peers",
            "ray,litserve,ray",
            "--workloads",
            "jpeg",
            "--batch-delay",
            "2ms,0",
        ]
    )
    assert chosen.peers == ["ray", "litserve"]
    assert chosen.workloads == [JPEG]
    assert chosen.batch_delay == [0.002, 0]
    assert chosen.model == ["delugenet38"]


def test_an_unknown_peer_is_refused_with_those_that_there_are(capsys):
    with pytest.raises(SystemExit):
        options.parse(["--output", "x", "--peers", "torchserve"])
    assert "litserve" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_an_error_before_anything_is_installed(tmp_path, capsys):
    from benchmarks.peers.__main__ import main

    options_ = ["--output", str(tmp_path / "out"), "--repository", str(tmp_path / "none")]
    assert main([*options_, "--cache", str(tmp_path / "cache")]) == 2
    assert not (tmp_path / "cache").exists()
    assert "error: " in capsys.readouterr().err


def test_peers_are_interleaved_in_alternating_order():
    from benchmarks.peers.__main__ import _order

    chosen = options.parse(
        [
            "--output",
            "x",
            "--rounds",
            "2",
            "--peers",
            "delugeserve,ray",
            "--workloads",
            "pixels,grpc",
        ]
    )
    cells = [(cell.workload, cell.peer) for cell in _order(chosen)]
    first = [(PIXELS, "delugeserve"), (PIXELS, "ray"), (GRPC, "delugeserve")]
    second = [(PIXELS, "ray"), (PIXELS, "delugeserve"), (GRPC, "delugeserve")]
    assert cells == first + second
