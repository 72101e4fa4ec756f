"""Telling a model that hangs from one that has much to do."""

from __future__ import annotations

import pytest

from delugeserve.serving.fleet.watch import HangDetector
from delugeserve.serving.procfs import Work


@pytest.fixture
def hangs():
    """Asks a detector with a deadline of 3 seconds each second; returns when it first says so."""

    def ask(*seconds: tuple[float | None, Work]) -> int | None:
        detector = HangDetector(3)
        for now, (waiting_since, work) in enumerate(seconds):
            if detector.hangs(now, waiting_since, work):
                return now
        return None

    return ask


def test_a_request_that_nothing_works_on(hangs):
    assert hangs(*[(0.0, Work(7, False))] * 10) == 3


def test_a_request_that_the_model_computes_for_long(hangs):
    assert hangs(*[(0.0, Work(ticks, False)) for ticks in range(20)]) is None


def test_a_model_that_waits_for_a_core(hangs):
    assert hangs(*[(0.0, Work(7, True))] * 20) is None


def test_a_model_that_stops_in_the_middle(hangs):
    busy = [(0.0, Work(ticks, False)) for ticks in range(5)]
    assert hangs(*busy, *[(0.0, Work(4, False))] * 10) == 7


def test_an_idle_model(hangs):
    assert hangs(*[(None, Work(0, False))] * 20) is None


def test_each_request_has_the_whole_deadline(hangs):
    answered = [(now - now % 2, Work(7, False)) for now in range(20)]
    assert hangs(*answered) is None
