"""The whole tuning with a synthetic objective: what is checked again, what is written."""

import dataclasses
import json

import pytest

from delugeserve.artifacts.model_config import read_config
from delugeserve.cli.render.tuning import draw_trials, print_plan, print_result
from delugeserve.errors import Failure, UnknownNameError, UsageError
from delugeserve.load import BudgetError
from delugeserve.tuning import Candidate, Measurement, Trial, plan_tuning, tune
from delugeserve.tuning.measure import LoadSettings
from delugeserve.tuning.tune import pareto


@pytest.fixture
def written(monkeypatch):
    """What would be written: versions that are promoted, and settings."""
    calls = []
    module = __import__("delugeserve.tuning.tune", fromlist=["tune"])
    monkeypatch.setattr(module, "promote", lambda _, model, version: calls.append(version))
    monkeypatch.setattr(module, "configure", lambda _, model, settings: calls.append(settings))
    return calls


def test_the_best_is_checked_again_and_written(make_plan, synthetic, written):
    measure = synthetic()
    result = tune(make_plan(trials=12), measure=measure)
    assert result.written
    assert [one for one, _ in measure.seen[-2:]] == [result.before.candidate, result.best.candidate]
    assert result.best_again.images_per_s > result.before_again.images_per_s
    assert written == [1, result.best.candidate.serving()]
    assert result.before.number == 1
    text = json.loads(json.dumps(result.as_json()))
    assert text["objective"] == "rate"
    assert len(text["trials"]) == 12
    assert text["best_again"]["images_per_s"] == result.best_again.images_per_s


def test_a_best_that_does_not_hold_is_not_written(make_plan, synthetic, written):
    class Lucky(synthetic):
        def __call__(self, candidate, expected, progress):
            found = super().__call__(candidate, expected, progress)
            return Measurement(50.0, 40.0, 1.0) if len(self.seen) > 10 else found

    result = tune(make_plan(trials=10), measure=Lucky())
    assert result.best.score > result.before.score
    assert (result.ahead, result.written, written) == (False, False, [])


def test_nothing_is_written_on_request(make_plan, synthetic, written):
    result = tune(make_plan(trials=12), measure=synthetic(), write=False)
    assert (result.ahead, result.written, written) == (True, False, [])


def test_the_old_settings_may_be_the_best(make_plan, synthetic, written):
    result = tune(make_plan(trials=1), measure=synthetic())
    assert (result.best_again, result.written, written) == (None, False, [])


def test_a_budget_that_nothing_keeps(make_plan, written):
    def slow(candidate, expected, progress):
        return Measurement(0.0, 70.0 + candidate.instances, None, "too slow")

    with pytest.raises(BudgetError) as caught:
        tune(make_plan(trials=4), measure=slow)
    assert caught.value.budget_ms == 50
    assert caught.value.nearest_ms >= 71
    assert "ms or more" in caught.value.remedy


def test_servers_that_never_start(make_plan, synthetic):
    with pytest.raises(Failure) as caught:
        tune(make_plan(trials=3), measure=synthetic(fails=lambda _: True))
    assert "did not load" in caught.value.problem


def test_the_pareto_front():
    def trial(number, speed, alone):
        return Trial(number, Candidate(1), Measurement(speed, 1.0, alone))

    slow, dominated, fast, equal = trial(1, 5, 1), trial(2, 4, 2), trial(3, 9, 3), trial(4, 9, 3)
    failed, unknown = Trial(5, Candidate(1), None, "x"), trial(6, 99, None)
    found = pareto([slow, dominated, fast, equal, failed, unknown, trial(7, 0, 0.1)])
    assert found == (slow, fast, equal)


def test_the_report(make_plan, synthetic, written, capsys):
    plan = make_plan(trials=12)
    print_plan(plan)
    result = tune(plan, measure=synthetic(fails=lambda one: one.instances == 8))
    print_result(result)
    out = capsys.readouterr().out
    for part in ("p99 <= 50 ms", "openvino bf16", "before", "best", "Pareto", "Written"):
        assert part in out
    figure = draw_trials(result)
    (axes,) = figure.axes
    assert {"trials", "Pareto front"} <= set(axes.get_legend_handles_labels()[1])


@pytest.fixture
def plan(repository, tmp_path, monkeypatch):
    monkeypatch.setattr("delugeserve.tuning.plan.require", lambda *_: None)

    def plan(model="net", **more):
        return plan_tuning(repository, model, output=tmp_path / "study", **more)

    return plan


def test_a_plan_is_made_from_the_repository(plan, repository):
    found = plan()
    config = read_config(repository / "net")
    assert found.before.instances in found.space.instances
    assert [one.backend for one in found.space.versions] == [config.backend]
    assert not (found.output).exists()
    assert found.options == json.loads(json.dumps(found.options))
    more = plan(trials=99)  # which is no other study
    assert (found.options, found.facts) == (more.options, more.facts)


def test_what_cannot_be_tuned(plan):
    with pytest.raises(UnknownNameError):
        plan("absent")
    with pytest.raises(UnknownNameError):
        plan(versions=[77])
    with pytest.raises(UsageError):
        plan(load=dataclasses.replace(LoadSettings(), batch_size=4096))
