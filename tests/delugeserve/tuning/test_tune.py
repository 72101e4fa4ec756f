"""The whole tuning with a synthetic objective: what is checked again, what is written."""

import dataclasses
import json
import re
import sys

import pytest

from delugeserve.artifacts.model_config import read_config
from delugeserve.cli.render.tuning import draw_trials, print_plan, print_result
from delugeserve.errors import Failure, OtherClassesError, ServerError, UnknownNameError, UsageError
from delugeserve.load import BudgetError
from delugeserve.tuning import Candidate, Measurement, Trial, plan_tuning, tune
from delugeserve.tuning.measure import LoadSettings
from delugeserve.tuning.tune import pareto


@pytest.fixture
def written(monkeypatch, make_plan):
    """What would be written: versions that are promoted, and settings."""
    calls = []
    module = sys.modules[tune.__module__]  # the package's name is the function's
    monkeypatch.setattr(module, "promote", lambda _, model, version: calls.append(version))
    monkeypatch.setattr(module, "configure", lambda _, model, settings: calls.append(settings))
    monkeypatch.setattr(module, "settings_of", lambda *_: make_plan().before)
    return calls


@pytest.fixture
def in_checks(synthetic):
    """A measure that after so many trials returns what a function makes of the true figures."""

    def make(trials, change):
        class Changed(synthetic):
            def __call__(self, candidate, expected, progress):
                found = super().__call__(candidate, expected, progress)
                number = len(self.seen) - trials
                return found if number <= 0 else change(candidate, found, number)

        return Changed()

    return make


def test_the_best_is_checked_twice_and_written(make_plan, synthetic, written):
    measure = synthetic()
    result = tune(make_plan(trials=8), measure=measure)
    assert result.written
    before, best = result.before.candidate, result.best.candidate
    assert [one for one, _ in measure.seen[-4:]] == [before, best, best, before]
    assert len(result.checks) == 2
    assert written == [1, best.serving()]
    assert result.before.number == 1
    text = json.loads(json.dumps(result.as_json()))
    assert text["objective"] == "rate"
    assert len(text["trials"]) == 8
    assert text["checks"][1]["best"]["measurement"]["images_per_s"] == result.best.score


@pytest.mark.parametrize("lucky", [0, 1])
def test_a_best_that_does_not_hold_each_time_is_not_written(make_plan, in_checks, written, lucky):
    """Two measurements in a check: the first ones still say what the trials said."""

    def as_before(candidate, found, number):
        return found if number <= 2 * lucky else Measurement(50.0, 40.0, 1.0)

    result = tune(make_plan(trials=8), measure=in_checks(8, as_before))
    assert result.best.score > result.before.score
    assert (len(result.checks), result.ahead, result.written) == (lucky + 1, False, False)
    assert written == []


@pytest.mark.parametrize(("share", "checks"), [(1.07, 0), (1.09, 2)])
def test_a_lead_that_cannot_be_resolved_is_none(make_plan, written, share, checks):
    """The search for a rate ends at 8 %."""

    plan = make_plan(trials=4)

    def measure(candidate, expected, progress):
        return Measurement(100.0 if candidate == plan.before else 100 * share, 40.0, 1.0)

    result = tune(plan, measure=measure)
    assert result.best.number > 1
    assert (len(result.checks), result.written) == (checks, checks > 0)


def test_settings_that_cannot_be_served_are_beaten_by_any_others(make_plan, synthetic, written):
    plan = make_plan(trials=6)
    result = tune(plan, measure=synthetic(fails=lambda one: one == plan.before))
    assert (result.before.number, result.before.error) == (1, "Model 'net' did not load.")
    assert [check.before.measurement for check in result.checks] == [None, None]
    assert result.written


def test_a_failure_in_a_check_is_not_taken_for_a_win(make_plan, in_checks, written):
    plan = make_plan(trials=8)

    def fail(candidate, found, number):
        if candidate == plan.before:
            raise ServerError("The server died.", "See its log.")
        return found

    result = tune(plan, measure=in_checks(8, fail))
    assert (result.checks[0].before.error, result.written) == ("The server died.", False)


def test_settings_that_were_changed_meanwhile_stay(make_plan, synthetic, written, monkeypatch):
    monkeypatch.setattr(sys.modules[tune.__module__], "settings_of", lambda *_: Candidate(1))
    with pytest.raises(Failure):
        tune(make_plan(trials=8), measure=synthetic())
    assert written == []


def test_nothing_is_written_on_request(make_plan, synthetic, written):
    result = tune(make_plan(trials=8), measure=synthetic(), write=False)
    assert (result.ahead, result.written, written) == (True, False, [])


def test_the_old_settings_may_be_the_best(make_plan, synthetic, written):
    result = tune(make_plan(trials=1), measure=synthetic())
    assert (result.checks, result.written, written) == ((), False, [])


def test_a_budget_that_nothing_keeps(make_plan, written):
    def slow(candidate, expected, progress):
        return Measurement(0.0, 70.0 + candidate.instances, None, "too slow")

    with pytest.raises(BudgetError) as caught:
        tune(make_plan(trials=4), measure=slow)
    assert caught.value.budget_ms == 50
    assert caught.value.nearest_ms >= 71
    assert "ms or more" in caught.value.remedy


def test_a_budget_that_is_kept_with_wrong_answers_only(make_plan):
    with pytest.raises(BudgetError) as caught:
        tune(make_plan(trials=2), measure=lambda *_: Measurement(0.0, 9.0, 9.0, "3 were wrong"))
    assert "3 were wrong" in caught.value.problem
    assert "--latency-budget" not in caught.value.remedy


def test_servers_that_never_start(make_plan, synthetic):
    with pytest.raises(Failure) as caught:
        tune(make_plan(trials=20), measure=synthetic(fails=lambda _: True))
    assert "None of 3 trials" in caught.value.problem
    assert "did not load" in caught.value.problem


def test_the_pareto_front():
    def trial(number, speed, alone):
        return Trial(number, Candidate(1), Measurement(speed, 1.0, alone))

    slow, dominated, fast, equal = trial(1, 5, 1), trial(2, 4, 2), trial(3, 9, 3), trial(4, 9, 3)
    failed, unknown = Trial(5, Candidate(1), None, "x"), trial(6, 99, None)
    found = pareto([slow, dominated, fast, equal, failed, unknown, trial(7, 0, 0.1)])
    assert found == (slow, fast, equal)


def test_the_report(make_plan, synthetic, written, capsys, monkeypatch):
    monkeypatch.setattr("delugeserve.cli.render.tuning._LISTED", 2)
    plan = make_plan(trials=8)
    print_plan(plan)
    result = tune(plan, measure=synthetic(fails=lambda one: one.instances == 8))
    print_result(result)
    out = capsys.readouterr().out
    assert re.search(r"^1 .* before", out, re.MULTILINE)  # though it is not among the best
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
    assert found.before.instances == config.instances
    assert config.instances not in found.space.instances  # as they are, not rounded
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


def test_versions_are_the_same_options_whichever_is_served(plan):
    """The best version may have been promoted since; the same command still goes on."""
    found = plan(versions=[2, 1])
    assert [one.number for one in found.space.versions] == [1, 2]
    assert found.before.version == 3
    assert found.options["versions"] == "1,2"


def test_a_model_whose_settings_cannot_be_changed_is_refused_at_once(plan, repository):
    config = repository / "net" / "config.pbtxt"
    config.write_text(config.read_text() + "instance_group { count: 1 kind: KIND_CPU }\n")
    with pytest.raises(UsageError, match="2 instance groups"):
        plan()


def test_a_version_with_other_classes_is_refused_at_once(plan, monkeypatch):
    def refuse(*_):
        raise OtherClassesError("net", 3, (2, 3))

    monkeypatch.setattr("delugeserve.tuning.plan.plan_promotion", refuse)
    with pytest.raises(OtherClassesError):
        plan(versions=[1])


def test_a_win_is_written_into_the_repository_and_the_same_command_goes_on(plan, repository):
    def measure(candidate, expected, progress):
        return Measurement(100.0 / candidate.version, 40.0, 1.0)

    result = tune(plan(versions=[1], trials=6), measure=measure)
    assert result.written
    now = plan(versions=[1], trials=6)
    assert now.before == result.best.candidate  # with the version, which was promoted
    again = tune(now, measure=measure)
    assert again.before.candidate == result.best.candidate
    assert (again.trials, again.checks, again.written) == (result.trials, (), False)
