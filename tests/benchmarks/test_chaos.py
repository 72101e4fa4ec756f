"""Reliability benchmarks: what counts as wrong, failed and slow, and how requests are sorted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("tritonclient.grpc", reason="the benchmarks need the extra 'server'")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def _request(start: float, seconds: float = 0.1, *, version: int = 1, outcome: str = "right"):
    from chaos_clients import Request

    answered = outcome in ("right", "wrong")
    return Request(start, seconds, "net", "single", outcome, version if answered else 0)


def _answers(names: Sequence[str], shift: int = 0):
    from chaos_repository import Answer

    return [Answer(number + shift, name) for number, name in enumerate(names)]


def test_an_answer_is_judged_by_the_version_that_gave_it():
    from chaos_clients import judge

    answers = {1: _answers(["cat", "dog"]), 2: _answers(["cat", "dog"], 3)}
    assert judge(answers, 2, [0, 1], answers[2]) == ""
    assert judge(answers, 1, [1], answers[1][1:]) == ""
    # Labels of the other version, another picture's class, an unknown version, a row too few.
    assert "version 1 says" in judge(answers, 1, [0], answers[2][:1])
    assert "right answer" in judge(answers, 2, [0], answers[2][1:])
    assert "never exported" in judge(answers, 3, [0], answers[1][:1])
    assert judge(answers, 1, [0, 1], answers[1][:1]) == "1 answers for 2 pictures"


def test_percentiles_count_the_requests_that_a_waiting_client_left_out():
    from chaos_load import percentile

    usual = [_request(number, 0.1) for number in range(95)]
    assert percentile([*usual, _request(95, outcome="refused")], 99) == pytest.approx(0.1)
    # One request of 100: uncorrected, the 94th percentile would be the usual time.
    stalled = percentile([*usual, _request(95, 10.0)], 94)
    assert stalled > 5
    assert math.isnan(percentile([], 99))


def test_a_gap_is_the_longest_time_without_a_right_answer():
    from chaos_load import longest_gap

    requests = [_request(1.0, 0.5), _request(2.0, 2.0), _request(2.0, 0.1, outcome="refused")]
    assert longest_gap(requests, 1.0, 5.0) == pytest.approx(2.5)
    assert longest_gap([], 1.0, 5.0) == 4.0


def test_requests_are_sorted_by_when_a_fault_was_in_force():
    from chaos import summarise_faults
    from chaos_faults import Harm

    requests = [
        _request(0.5, 9.0),  # before the clients are warm
        _request(9.0, 0.1),
        _request(9.95, 1.0),  # in flight when the fault strikes
        _request(12.0, 0.2, outcome="failed"),
        _request(16.0, 0.3),
    ]
    row = summarise_faults("kill", [Harm("server", 10.0, 15.0)], requests, warm=1.0, seconds=2.0)
    assert (row.all.requests, row.all.failed, row.all.wrong) == (4, 1, 0)
    assert row.all.slowest == 1.0
    assert (row.before, row.during, row.after) == pytest.approx((0.1, 1.0, 0.3))
    assert row.gaps == pytest.approx([4.05])


def test_an_old_version_may_answer_until_a_change_is_complete():
    from chaos import judge_version
    from chaos_faults import Harm

    harms = [Harm("promote", 10.0, 20.0, versions={"net": 2}), Harm("kill", 30.0, 40.0)]
    for start, version, outcome in (
        (5.0, 1, "right"),
        (15.0, 1, "right"),
        (15.0, 2, "right"),
        (21.0, 2, "right"),
        (21.0, 1, "wrong"),
    ):
        assert judge_version(_request(start, version=version), harms).outcome == outcome
    # It was sent before the next change, and answered in it: either may answer.
    later = [*harms[:1], Harm("rollback", 30.0, 40.0, versions={"net": 1})]
    assert judge_version(_request(29.9, 0.5, version=1), later).outcome == "right"


def test_growth_compares_the_first_third_with_the_last():
    from chaos_soak import growth

    samples = [{"envoy": 100, "server": 900}] * 3 + [{"envoy": 120, "server": 900}] * 3
    grown = growth(samples)
    assert grown["envoy"].share == pytest.approx(0.2)
    assert grown["server"].share == 0
    assert grown["all"].share == pytest.approx(0.02)
