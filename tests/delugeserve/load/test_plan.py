"""What a plan measures, against tests that only note what was asked."""

import dataclasses

import numpy as np
import pytest

from delugeserve.errors import UsageError
from delugeserve.load import LoadResult, Plan, RateResult, Scenario, Settings, Target
from delugeserve.load import audit as audits
from delugeserve.load import plan as plans

TARGET = Target("stub:1", "stub", np.zeros((1, 2, 2, 3), np.uint8), max_batch_size=8)


def result(target, settings, **more):
    names = {field.name: None for field in dataclasses.fields(LoadResult)}
    found = {
        "scenario": settings.scenario,
        "batch_size": target.batch_size,
        "in_flight": settings.in_flight,
        "scheduled_rate": settings.rate,
        "valid": True,
        "reasons": (),
        "images_per_s": 100.0,
        "seconds": settings.duration,
        "percentiles_ms": {"50": 5.0},
    }
    return LoadResult(**names | found | more)


@pytest.fixture
def asked(monkeypatch):
    """Note each test instead of running it."""
    tests = []

    def run(target, settings, *, output=None, **_):
        tests.append((target, settings, output))
        # A second look at one image is twice as fast, once.
        seen = sum(one.same_sample for _, one, _ in tests)
        fast = settings.same_sample and target.model == "noisy" and seen == 1
        if target.model == "cached":
            fast = settings.same_sample
        return result(target, settings, percentiles_ms={"50": 2.0 if fast else 5.0})

    def find_rate(target, settings, **_):
        best = result(target, settings)
        return RateResult(best, best, (best,))

    monkeypatch.setattr(plans, "run", run)
    monkeypatch.setattr(audits, "run", run)
    monkeypatch.setattr(plans, "find_rate", find_rate)
    monkeypatch.setattr(plans, "estimate_rate", lambda *_, **__: 77.0)
    return tests


def test_a_closed_loop_has_every_combination(asked, tmp_path):
    plan = Plan(
        TARGET, Settings(Scenario.CLOSED_LOOP), in_flight=(1, 3), repeats=2, output=tmp_path
    )
    report = plan.measure()
    assert [(row.first.batch_size, row.first.in_flight) for row in report.rows] == [
        (1, 1), (1, 3), (8, 1), (8, 3)
    ]  # fmt: skip
    assert [len(row.results) for row in report.rows] == [2] * 4
    assert len({folder for _, _, folder in asked}) == len(asked) == 8
    assert {settings.seed for _, settings, _ in asked} == {0, 1}
    assert report.valid


@pytest.mark.parametrize(
    ("scenario", "size", "rate"),
    [("offline", 8, 77.0), ("multi-stream", 4, 100.0), ("single-stream", 1, 100.0)],
)
def test_other_scenarios(asked, scenario, size, rate):
    Plan(TARGET, Settings(Scenario(scenario), streams=4)).measure()
    ((target, settings, _),) = asked
    assert (target.batch_size, settings.rate) == (size, rate)


def test_an_offline_test_that_ends_too_soon_is_repeated(asked, monkeypatch):
    run = plans.run

    def short(target, settings, **more):
        found = run(target, settings, **more)
        return dataclasses.replace(found, seconds=0.5 + len(asked) * 5)

    monkeypatch.setattr(plans, "run", short)
    report = Plan(TARGET, Settings(Scenario.OFFLINE, duration=8.0)).measure()
    assert [settings.rate for _, settings, _ in asked] == [77.0, 160.0]
    assert len(report.rows[0].results) == 1


def test_a_batch_that_is_too_large_is_told_before_the_first_test(asked):
    with pytest.raises(UsageError):
        Plan(TARGET, Settings(Scenario.CLOSED_LOOP), batch_sizes=(1, 9)).measure()
    assert not asked


def test_a_search_takes_one_size(asked):
    with pytest.raises(UsageError):
        Plan(TARGET, Settings(), batch_sizes=(1, 2)).measure()


def test_a_search_is_audited_without_load(asked):
    report = Plan(TARGET, Settings(), audit=True).measure()
    assert report.valid
    assert [settings.scenario for _, settings, _ in asked] == [Scenario.SINGLE_STREAM] * 2
    assert [target.unique for target, _, _ in asked] == [True, False]
    assert report.as_json()["rate"] == report.found.rate


@pytest.mark.parametrize(("model", "valid"), [("noisy", True), ("cached", False)])
def test_a_suspicion_is_checked_once_more(asked, model, valid):
    target = dataclasses.replace(TARGET, model=model)
    report = Plan(target, Settings(), rates=(50.0,), audit=True).measure()
    assert report.valid is valid
    assert len(asked) == 5
