"""Trials in a folder: kept, resumed, held against a second process."""

import dataclasses
import json

import pytest

from delugeserve.errors import BusyOutputError, ResumeError, UsageError
from delugeserve.tuning import Candidate, Measurement
from delugeserve.tuning.study import describe_measurement, open_study


def search(plan, measure):
    with open_study(plan) as study:
        study.search(measure)
        return study.trials, study.best


def test_the_first_trial_is_the_settings_of_the_model(make_plan, synthetic):
    plan, measure = make_plan(trials=3), synthetic()
    trials, _ = search(plan, measure)
    assert [trial.number for trial in trials] == [1, 2, 3]
    assert trials[0].candidate == plan.before
    assert measure.seen[0][1] is None  # nothing to expect yet


def test_it_finds_good_settings_in_a_fraction_of_the_space(make_plan, synthetic):
    plan = make_plan(trials=24)
    trials, best = search(plan, synthetic())
    assert len(trials) == 24
    assert len({trial.candidate for trial in trials}) == 24  # nothing is tried twice
    assert plan.space.size > 300
    assert best.candidate.version == 1
    assert best.score >= 90 > trials[0].score  # 100 is the best there is


def test_an_interrupted_study_goes_on(make_plan, synthetic):
    with pytest.raises(KeyboardInterrupt):
        search(make_plan(trials=6), synthetic(stop_at=4))
    rest = synthetic()
    trials, _ = search(make_plan(trials=6), rest)
    assert (len(trials), len(rest.seen)) == (6, 3)
    assert search(make_plan(trials=6), rest)[0] == trials  # nothing is left to do
    assert len(rest.seen) == 3
    assert len(search(make_plan(trials=8), rest)[0]) == 8


def test_a_study_that_was_interrupted_at_once_begins_with_the_old_settings(make_plan, synthetic):
    with pytest.raises(KeyboardInterrupt):
        search(make_plan(), synthetic(stop_at=1))
    plan = make_plan(trials=1)
    assert search(plan, synthetic())[0][0].candidate == plan.before


def test_a_candidate_that_cannot_be_served_is_a_failed_trial(make_plan, synthetic):
    plan = make_plan(trials=8)
    trials, best = search(plan, synthetic(fails=lambda one: one.version == 1))
    failed = [trial for trial in trials if trial.measurement is None]
    assert failed
    assert {trial.error for trial in failed} == {"Model 'net' did not load."}
    assert best.candidate.version == 2


def test_settings_that_changed_since_are_tried_as_well(make_plan, synthetic):
    """After the best was written, or edited by hand, the same command compares with that."""
    search(make_plan(trials=4), synthetic())
    now = Candidate(version=1, instances=7)
    with open_study(make_plan(trials=4, before=now)) as study:
        assert study.before is None
        measure = synthetic()
        study.search(measure)
        assert [one for one, _ in measure.seen] == [now]
        assert (study.before.candidate, study.before.number) == (now, 5)


def test_where_nothing_can_be_measured_it_ends_early_and_begins_anew(make_plan, synthetic):
    plan = make_plan(trials=8)
    assert len(search(plan, synthetic(fails=lambda _: True))[0]) == 3
    trials, best = search(plan, synthetic())
    assert (len(trials), trials[0].candidate) == (8, plan.before)
    assert not any(trial.error for trial in trials)
    assert len(search(plan, synthetic())[0]) == 8  # nothing is left to do
    assert best


def test_an_error_of_the_system_is_not_blamed_on_the_folder(make_plan):
    def fail(*_):
        raise BrokenPipeError("elsewhere")

    with pytest.raises(BrokenPipeError):
        search(make_plan(), fail)


def test_a_small_space_ends_before_the_trials_do(make_plan, synthetic, monkeypatch):
    monkeypatch.setattr("delugeserve.tuning.study._REPEATS", 8)
    trials, _ = search(make_plan(trials=500, budget=1e-4, cores=1, largest=1), synthetic())
    assert len(trials) <= 4  # pinned or not, the other version, and the settings of the model


@pytest.mark.parametrize(("speed", "text"), [(1234.5, "1,234"), (100, "100"), (1.267, "1.27")])
def test_speeds_keep_the_digits_that_count(speed, text):
    assert describe_measurement(Measurement(speed, 48.12, 1.0)) == f"{text} images/s, 48.1 ms"


def test_two_runs_at_once_are_refused(make_plan):
    plan = make_plan()
    with open_study(plan), pytest.raises(BusyOutputError) as caught, open_study(plan):
        pass
    assert caught.value.path == plan.output


def test_other_settings_are_refused(make_plan, synthetic):
    search(make_plan(trials=1), synthetic())
    with pytest.raises(ResumeError) as caught, open_study(make_plan(budget=0.2)):
        pass
    assert caught.value.changed == {"latency_budget": ("50ms", "200ms")}
    assert "--latency-budget 50ms" in caught.value.remedy
    elsewhere = dataclasses.replace(make_plan(), machine="4 cores")
    with pytest.raises(UsageError, match="machine was 8 cores"), open_study(elsewhere):
        pass


def test_a_folder_with_other_files_is_refused(make_plan, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError), open_study(make_plan(output=tmp_path)):
        pass
    with pytest.raises(UsageError), open_study(make_plan(output=tmp_path / "notes.txt")):
        pass
    assert (tmp_path / "notes.txt").read_text() == ""


def test_a_damaged_plan_is_refused(make_plan):
    plan = make_plan()
    with open_study(plan):
        pass
    path = plan.output / "tuning.json"
    assert json.loads(path.read_text())["facts"]["model"] == "net"
    path.write_text("[]")
    with pytest.raises(UsageError), open_study(plan):
        pass


def test_a_study_with_other_choices_is_refused(make_plan):
    plan = make_plan()
    with open_study(plan):
        pass
    space = dataclasses.replace(plan.space, threads=(*plan.space.threads, 7))
    with pytest.raises(UsageError), open_study(dataclasses.replace(plan, space=space)):
        pass
