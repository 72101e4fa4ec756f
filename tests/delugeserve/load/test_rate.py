"""The search for a rate, against a server whose latency is a function of it."""

import dataclasses

import numpy as np
import pytest

from delugeserve.errors import UsageError
from delugeserve.load import BudgetError, LoadResult, Scenario, Settings, Target, find_rate, rate
from delugeserve.load.budget import parse_budget
from delugeserve.load.loadgen import min_queries

TARGET = Target("stub:1", "stub", np.zeros((1, 2, 2, 3), np.uint8))
BUDGET = Settings(latency_budget=0.05)


def result(settings, latency_ms, rate):
    names = {field.name: None for field in dataclasses.fields(LoadResult)}
    valid = settings.scenario is not Scenario.SERVER or latency_ms <= 50
    return LoadResult(
        **names
        | {
            "model": "stub",
            "scenario": settings.scenario,
            "valid": valid,
            "at_percentile_ms": latency_ms,
            "completed_rate": rate,
            "images_per_s": rate,
            "scheduled_rate": settings.rate if settings.scenario is Scenario.SERVER else None,
        }
    )


@pytest.fixture
def server(monkeypatch):
    """Answer tests as a server that keeps 50 ms up to a capacity; return the rates asked for."""
    asked = []

    def start(capacity, alone_ms=2.0):
        def run(target, settings, **_):
            if settings.scenario is Scenario.SINGLE_STREAM:
                return result(settings, alone_ms, 1e3 / alone_ms)
            asked.append(settings.rate)
            return result(settings, 40 if settings.rate <= capacity else 400, settings.rate)

        monkeypatch.setattr(rate, "run", run)
        return asked

    return start


@pytest.mark.parametrize("capacity", [30, 251, 5000, 1e6])
@pytest.mark.parametrize("precision", [0.01, 0.2])
def test_the_highest_rate_is_found(server, capacity, precision):
    asked = server(capacity)
    seen = []
    found = find_rate(TARGET, BUDGET, precision=precision, on_trial=seen.append)
    assert capacity / (1 + precision) * 0.999 <= found.rate <= capacity
    assert found.best.valid
    assert [trial.scheduled_rate for trial in found.trials] == asked
    assert seen == [found.alone, *found.trials]
    assert len(asked) < 40


def test_a_test_is_long_enough_for_a_growing_queue(server, monkeypatch):
    server(100)
    seen = []
    run = rate.run
    monkeypatch.setattr(rate, "run", lambda *args, **kw: seen.append(args[1]) or run(*args, **kw))
    find_rate(TARGET, dataclasses.replace(BUDGET, latency_budget=20.0, duration=1.0))
    assert {one.duration for one in seen if one.scenario is Scenario.SERVER} == {200.0}


def test_a_budget_that_one_request_alone_does_not_keep(server):
    asked = server(100, alone_ms=80.0)
    with pytest.raises(BudgetError) as caught:
        find_rate(TARGET, BUDGET)
    assert (caught.value.budget_ms, caught.value.nearest_ms) == (50.0, 80.0)
    assert "100ms" in caught.value.remedy
    assert asked == []


def test_a_server_that_keeps_it_alone_only(server):
    asked = server(0)
    with pytest.raises(BudgetError) as caught:
        find_rate(TARGET, BUDGET)
    assert caught.value.nearest_ms == 2.0
    assert len(asked) < 10  # it does not go on for hours at less and less


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("50ms", 0.05), ("50", 0.05), ("0.5s", 0.5), ("700 us", 7e-4), ("1e3MS", 1.0)],
)
def test_budgets(text, seconds):
    assert parse_budget(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "ms", "-5ms", "0", "5 minutes", "1.2.3s", "nan", "inf", "1e999s"]
)
def test_texts_that_are_no_budget(text):
    with pytest.raises(UsageError):
        parse_budget(text)


@pytest.mark.parametrize(("percentile", "queries"), [(0.99, 662), (0.9, 64), (0.5, 11)])
def test_the_least_number_of_queries_is_loadgens(percentile, queries):
    assert min_queries(Settings(percentile=percentile)) == queries


@pytest.mark.parametrize(
    "numbers",
    [
        {"duration": 0},
        {"duration": float("nan")},
        {"rate": -1},
        {"latency_budget": float("inf")},
        {"percentile": 1.0},
        {"percentile": 0},
        {"streams": 0},
        {"in_flight": 0},
        {"warmup": -1},
    ],
)
def test_settings_out_of_range(numbers):
    with pytest.raises(UsageError):
        Settings(**numbers)
