"""The search for a rate, against a server whose latency is a function of it."""

import dataclasses

import numpy as np
import pytest

from delugeserve.errors import UsageError
from delugeserve.load import (
    BudgetError,
    LoadResult,
    NoAnswerError,
    Scenario,
    Settings,
    Target,
    find_rate,
    rate,
)
from delugeserve.load.budget import parse_budget, parse_duration
from delugeserve.load.loadgen import min_queries

TARGET = Target("stub:1", "stub", np.zeros((1, 2, 2, 3), np.uint8))
BUDGET = Settings(latency_budget=0.05)


def result(settings, latency_ms, rate, **more):
    names = {field.name: None for field in dataclasses.fields(LoadResult)}
    valid = settings.scenario is not Scenario.SERVER or latency_ms <= 50
    return LoadResult(
        **names
        | {
            "model": "stub",
            "scenario": settings.scenario,
            "valid": valid,
            "reasons": (),
            "errors": 0,
            "at_percentile_ms": latency_ms,
            "min_ms": latency_ms / 2,
            "completed_rate": rate,
            "images_per_s": rate,
            "scheduled_rate": settings.rate if settings.scenario is Scenario.SERVER else None,
        }
        | more
    )


class Stub:
    """A server that keeps 50 ms up to a capacity.

    Attributes:
        tests: the settings of every test of the server scenario.
        probes: how often one request was sent to see whether it answers.
    """

    def __init__(self, capacity, alone_ms=(2.0,)):
        self.capacity, self.alone_ms = capacity, list(alone_ms)
        self.tests, self.probes, self.down = [], 0, 0
        self.latency = lambda settings: 40 if settings.rate <= self.capacity else 400

    def run(self, target, settings, **_):
        if settings.scenario is Scenario.SERVER:
            self.tests.append(settings)
            return result(settings, self.latency(settings), settings.rate)
        if settings.scenario is Scenario.CLOSED_LOOP:
            self.probes += settings.in_flight == 1
            if self.down:
                self.down -= 1
                raise NoAnswerError("It is gone.", "Start it.")
            return result(settings, 20.0, max(10.0, min(self.capacity, 3000.0)) * 1.1)
        alone = self.alone_ms.pop(0) if len(self.alone_ms) > 1 else self.alone_ms[0]
        return result(settings, alone, 1e3 / alone)

    @property
    def rates(self):
        return [settings.rate for settings in self.tests]


@pytest.fixture
def server(monkeypatch):
    """Return a function that starts a stub. Time passes when something waits."""
    clock = [0.0]
    monkeypatch.setattr(rate.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(rate.time, "sleep", lambda s: clock.__setitem__(0, clock[0] + s))

    def start(*arguments, **more):
        stub = Stub(*arguments, **more)
        monkeypatch.setattr(rate, "run", stub.run)
        return stub

    return start


@pytest.mark.parametrize("capacity", [30, 251, 2000, 1e6])
@pytest.mark.parametrize("precision", [0.01, 0.2])
def test_the_highest_rate_is_found(server, capacity, precision):
    stub = server(capacity)
    seen = []
    found = find_rate(TARGET, BUDGET, precision=precision, on_trial=seen.append)
    assert capacity / (1 + precision) * 0.999 <= found.rate <= capacity
    assert found.best.valid
    assert [trial.scheduled_rate for trial in found.trials] == stub.rates
    assert seen == [found.alone, *found.trials]
    assert len(stub.tests) < 30


def test_a_search_from_a_closed_loop_is_short(server):
    stub = server(1000)
    find_rate(TARGET, BUDGET)
    assert len(stub.tests) <= 6


@pytest.mark.parametrize("start", [90.0, 1100.0])
def test_a_search_from_a_rate_that_is_expected(server, start):
    found = find_rate(TARGET, BUDGET, start=start) if server(1000) else None
    assert 1000 / 1.05 <= found.rate <= 1000


def test_a_rate_that_was_valid_by_chance_is_not_the_answer(server):
    stub = server(1000)
    stub.latency = lambda settings: 40 if settings.rate <= (1000, 700)[settings.seed > 0] else 400
    found = find_rate(TARGET, BUDGET)
    assert found.best.scheduled_rate <= 700
    assert found.best is found.trials[-1]
    seeds = [settings.seed for settings in stub.tests]
    assert seeds[-1] > 0
    assert len({seed for seed in seeds if seed}) == len([seed for seed in seeds if seed])


def test_a_rate_that_never_holds_twice(server):
    stub = server(1000)
    stub.latency = lambda settings: 40 if settings.seed == 0 and settings.rate <= 1000 else 400
    with pytest.raises(BudgetError):
        find_rate(TARGET, BUDGET)
    assert len(stub.tests) < 30


def test_a_rate_at_which_nothing_is_answered_does_not_end_the_search(server):
    stub = server(1000)

    def latency(settings):
        if settings.rate > 1000:
            stub.down = 3  # it restarts meanwhile
            raise NoAnswerError("No request was answered.", "Check the server.")
        return 40 if not stub.down else 400

    stub.latency = latency
    found = find_rate(TARGET, BUDGET)
    assert 1000 / 1.05 <= found.rate <= 1000
    assert found.unanswered
    assert min(found.unanswered) > 1000
    assert found.as_json()["unanswered"] == list(found.unanswered)


def test_a_server_that_does_not_come_back(server):
    stub = server(1000)

    def latency(settings):
        if settings.rate > 1000:
            stub.down = 10**6
            raise NoAnswerError("No request was answered.", "Check the server.")
        return 40

    stub.latency = latency
    with pytest.raises(NoAnswerError) as caught:
        find_rate(TARGET, BUDGET)
    assert "highest VALID rate before was 880/s" in caught.value.problem
    assert 10 < stub.probes < 30


def test_a_test_is_long_enough_for_a_growing_queue(server):
    stub = server(100)
    find_rate(TARGET, dataclasses.replace(BUDGET, latency_budget=20.0, duration=1.0))
    assert {settings.duration for settings in stub.tests} == {200.0}


def test_a_budget_that_no_single_request_keeps(server):
    stub = server(0, alone_ms=[160.0])
    with pytest.raises(BudgetError) as caught:
        find_rate(TARGET, BUDGET)
    assert (caught.value.budget_ms, caught.value.nearest_ms) == (50.0, 160.0)
    assert len(stub.tests) == 1


def test_one_slow_request_alone_does_not_end_the_search(server):
    server(1000, alone_ms=[80.0, 3.0])
    found = find_rate(TARGET, BUDGET)
    assert found.alone.at_percentile_ms == 3.0
    assert found.rate > 900


def test_slow_requests_alone_do_not_narrow_the_search(server):
    server(1000, alone_ms=[80.0])  # some of them keep the budget
    assert find_rate(TARGET, BUDGET, start=2500.0).rate > 900


def test_requests_that_wait_for_others_are_slowest_alone(server):
    server(1000, alone_ms=[160.0])  # a queue delay
    assert find_rate(TARGET, BUDGET).rate > 900


def test_a_server_that_keeps_it_alone_only(server):
    stub = server(0)
    with pytest.raises(BudgetError) as caught:
        find_rate(TARGET, BUDGET)
    assert caught.value.nearest_ms == 400.0
    assert "500ms" in caught.value.remedy
    assert len(stub.tests) < 10  # it does not go on for hours at less and less


def test_tests_that_are_invalid_for_another_reason(server, monkeypatch):
    server(1000)
    answers = {"valid": False, "reasons": ("3 of 9 answers were wrong.",)}
    run = rate.run

    def wrong(target, settings, **more):
        found = run(target, settings, **more)
        return dataclasses.replace(found, **answers) if found.scheduled_rate else found

    monkeypatch.setattr(rate, "run", wrong)
    with pytest.raises(BudgetError) as caught:
        find_rate(TARGET, BUDGET)
    assert "3 of 9 answers were wrong." in caught.value.problem


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("50ms", 0.05), ("50", 0.05), ("0.5s", 0.5), ("700 us", 7e-4), ("1e3MS", 1.0)],
)
def test_budgets(text, seconds):
    assert parse_budget(text) == pytest.approx(seconds)


def test_a_bare_number_is_a_duration_in_seconds_and_a_budget_in_milliseconds():
    assert (parse_duration("10"), parse_duration("500ms"), parse_budget("10")) == (10, 0.5, 0.01)


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
