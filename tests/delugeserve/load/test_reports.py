"""Load tests as CSV and as a page."""

import csv
import dataclasses

import numpy as np
import pytest

from delugeserve.load import LoadResult, Scenario
from delugeserve.load.perf_analyzer import write_csv
from delugeserve.load.report import write_report
from delugeserve.load.rows import Row
from delugeserve.load.statistics import ServerSplit

pytest.importorskip("hdrh", reason="load tests need the extra 'benchmark'")
pytest.importorskip("jinja2", reason="reports need the extra 'benchmark'")

from delugeserve.load.histogram import encode, histogram_of, percentiles_ms

SPLIT = ServerSplit(1.0, 0.25, 3.0, 0.25, 2.0)


def result(scenario=Scenario.CLOSED_LOOP, **more):
    names = {field.name: 0 for field in dataclasses.fields(LoadResult)}
    latencies = histogram_of(np.array([0.005, 0.007]))
    found = {
        "model": "stub",
        "scenario": scenario,
        "batch_size": 1,
        "in_flight": 4 if scenario is Scenario.CLOSED_LOOP else None,
        "scheduled_rate": None if scenario is Scenario.CLOSED_LOOP else 9.0,
        "valid": True,
        "reasons": (),
        "percentile": 0.99,
        "budget_ms": 50.0,
        "images_per_s": 100.0,
        "mean_ms": 6.0,
        "issue_delay_mean_ms": 0.5,
        "percentiles_ms": percentiles_ms(latencies),
        "histogram": encode(latencies),
        "first_error": None,
        "client_limit": None,
        "server": SPLIT,
        "folder": None,
    }
    return LoadResult(**names | found | more)


def test_csv_has_the_columns_of_perf_analyzer(tmp_path):
    write_csv([Row((result(),))], tmp_path / "figures.csv")
    with (tmp_path / "figures.csv").open() as file:
        (row,) = csv.DictReader(file)
    order = list(row)
    assert order.index("Client Send") + 1 == order.index("Network+Server Send/Recv")
    assert order.index("Client Recv") + 1 == order.index("p50 latency")
    server = [row[f"Server {name}"] for name in ("Queue", "Compute Infer")]
    assert (row["Client Send"], server) == ("500", ["1000", "3000"])
    assert row["Network+Server Send/Recv"] == "1000"  # what is left of the mean of 6,000


def test_a_repeat_without_figures_of_the_server(tmp_path):
    rows = [Row((result(), result(server=None))), Row((result(server=None),))]
    write_csv(rows, tmp_path / "figures.csv")
    with (tmp_path / "figures.csv").open() as file:
        repeated, alone = csv.DictReader(file)
    assert (repeated["Server Queue"], alone["Server Queue"]) == ("1000", "")


@pytest.mark.parametrize(
    ("scenarios", "scheduled", "sent"),
    [(["closed-loop"], False, False), (["server"], True, False), (["server", "closed-loop"], 1, 1)],
)
def test_a_page_says_from_when_latency_counts(tmp_path, monkeypatch, scenarios, scheduled, sent):
    monkeypatch.setattr("delugeserve.load.report._pictures", lambda *_: [])
    rows = [Row((result(Scenario(name)),)) for name in scenarios]
    write_report(rows, tmp_path / "report.html", title="stub")
    page = (tmp_path / "report.html").read_text()
    assert ("counts from when a request was scheduled" in page) == scheduled
    assert ("In a closed loop it counts from when it was sent" in page) == sent
