"""What a load test says of a candidate: a server whose latency is a function of the rate."""

import dataclasses
import sys

import numpy as np
import pytest

from delugeserve.load import LoadResult, Scenario, Target, find_rate
from delugeserve.tuning import Measurement, Objective
from delugeserve.tuning.measure import LoadSettings, measure_target

TARGET = Target("stub:1", "stub", np.zeros((1, 2, 2, 3), np.uint8))


@pytest.fixture
def server(monkeypatch):
    """A function that starts a server, and returns the settings of each test that it sees."""

    def start(capacity, alone_ms=2.0, **more):
        seen = []

        def run(target, settings, **_):
            seen.append(settings)
            loaded = settings.scenario is Scenario.SERVER
            late = loaded and settings.rate > capacity
            rate = settings.rate if loaded else capacity
            names = {field.name: None for field in dataclasses.fields(LoadResult)}
            known = {
                "model": "stub",
                "scenario": settings.scenario,
                "valid": not late,
                "reasons": (),
                "errors": 0,
                "wrong": 0,
                "checked": 9,
                "min_ms": alone_ms / 2,
                "at_percentile_ms": 400.0 if late else 40.0 if loaded else alone_ms,
                "percentiles_ms": {"50": alone_ms},
                "completed_rate": rate,
                "images_per_s": rate * target.batch_size,
                "scheduled_rate": rate if loaded else None,
            }
            return LoadResult(**names | known | more)

        for module in ("delugeserve.tuning.measure", find_rate.__module__):
            monkeypatch.setattr(sys.modules[module], "run", run)
        return seen

    return start


def test_the_rate_counts_images(server):
    server(100)
    target = dataclasses.replace(TARGET, batch_size=8)
    found = measure_target(target, LoadSettings(latency_budget=0.05, batch_size=8), 900.0)
    assert 800 / (1 + Objective.RATE.resolution) <= found.images_per_s <= 800
    assert (found.latency_ms, found.alone_ms, found.note) == (40.0, 2.0, "")


def test_a_candidate_far_below_the_best_is_given_up_with_what_is_known(server):
    seen = server(100)
    found = measure_target(TARGET, LoadSettings(latency_budget=0.05), 1000.0)
    rates = [one.rate for one in seen if one.scenario is Scenario.SERVER]
    assert min(rates) >= 500
    assert found == Measurement(0.0, 400.0, 2.0, f"not at {min(rates):,.3g} requests/s")


def test_the_reason_is_failed_requests_where_the_budget_was_kept(server):
    server(1e9, errors=7, valid=False, reasons=("7 requests failed.",))
    found = measure_target(TARGET, LoadSettings(latency_budget=0.05), None)
    assert found.images_per_s == 0
    assert "7 requests failed" in found.note


def test_throughput_fills_the_queue_and_expects_what_a_closed_loop_reaches(server):
    seen = server(100)
    load = LoadSettings(Objective.THROUGHPUT, latency_budget=0.05, batch_size=16)
    found = measure_target(dataclasses.replace(TARGET, batch_size=16), load, 9.0)
    assert (found.images_per_s, found.latency_ms) == (1600.0, 2.0)
    offline = seen[-1]
    assert offline.scenario is Scenario.OFFLINE
    assert offline.rate >= 1600  # images/s, not requests/s, and not what another candidate reached
    assert offline.in_flight * 16 == 128


@pytest.mark.parametrize(
    ("server_is", "note"),
    [({"alone_ms": 60.0}, "a request alone takes 60 ms"), ({"wrong": 2}, "2 of 9 answers")],
)
def test_throughput_counts_only_where_a_request_alone_keeps_the_budget(server, server_is, note):
    seen = server(100, **server_is)
    found = measure_target(TARGET, LoadSettings(Objective.THROUGHPUT, latency_budget=0.05), None)
    assert found.images_per_s == 0
    assert note in found.note
    assert [one.scenario for one in seen] == [Scenario.SINGLE_STREAM]
