"""Records of what happens to a fleet."""

from __future__ import annotations

import json
import logging

import pytest

from delugeserve.errors import UsageError
from delugeserve.serving.fleet import events
from delugeserve.serving.fleet.journal import Journal, Record, records
from delugeserve.serving.fleet.machine import step
from delugeserve.serving.fleet.states import FRONT, Fleet, Part


def run(fleet: Fleet, *happened: events.Event) -> tuple[Fleet, list[Record]]:
    found: list[Record] = []
    for now, event in enumerate(happened):
        before = fleet
        fleet, _ = step(fleet, event, float(now))
        found += records(before, fleet, event, {"a": "net version 1", "b": "net version 2"})
    return fleet, found


@pytest.fixture
def serving() -> Fleet:
    happened = [events.Wanted("a"), *map(events.Loaded, (1, 2)), *map(events.Proved, (1, 2))]
    fleet, _ = run(Fleet(parts=(Part(FRONT),)), *happened, events.PartStarted(FRONT, 1))
    return fleet


def test_a_lost_replica_and_its_replacement(serving):
    _, found = run(serving, events.Lost(1, "It died."), events.Ended(1), events.Loaded(3))
    assert [record.event for record in found] == [
        "replica.lost",
        "replica.active",
        "replica.starting",
        "replica.ended",
        "replica.proving",
    ]
    lost = found[0]
    assert lost.message == "replica-1 is lost: It died."
    assert lost.facts == {"replica": "replica-1", "release": "a", "reason": "It died."}


def test_a_change_of_release(serving):
    fleet, found = run(serving, events.Wanted("b"))
    assert found[-1].message == "Starting net version 2 beside net version 1."
    _, found = run(fleet, *map(events.Loaded, (3, 4)), *map(events.Proved, (3, 4)))
    (served,) = [one for one in found if one.event == "release.served"]
    assert served.message == "Serving net version 2 instead of net version 1."
    _, found = run(fleet, events.Lost(3, "It answers wrongly."))
    (rejected,) = [one for one in found if one.event == "release.rejected"]
    assert rejected.message == (
        "net version 2 is not served: It answers wrongly. net version 1 is still served."
    )


def test_a_part_that_is_lost_and_started_again(serving):
    _, found = run(serving, events.PartLost(FRONT, "It ended."), events.PartStarted(FRONT, 1))
    assert [record.event for record in found] == ["front.lost", "front.started"]


def test_what_happens_is_logged_counted_and_written(tmp_path, caplog):
    journal = Journal(tmp_path / "log.jsonl")
    stream = journal.stream("replica-1")
    with caplog.at_level(logging.INFO, "delugeserve"):
        journal.add(Record("now", "replica.lost", "replica-1 is lost: It died.", {"reason": "..."}))
        journal.add(Record("now", "replica.starting", "replica-2 is starting."))
    stream.write("a line\n")
    journal.close()
    stream.write("too late\n")
    assert journal.counters == {"replica.lost": 1, "replica.starting": 1}
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("WARNING", "replica-1 is lost: It died.")
    ]
    first, second, third = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert first == {"time": "now", "event": "replica.lost", "reason": "..."}
    assert second["event"] == "replica.starting"
    assert (third["source"], third["line"]) == ("replica-1", "a line")
    assert Journal().stream("replica-1") is None


def test_a_log_that_cannot_be_written(tmp_path):
    with pytest.raises(UsageError):
        Journal(tmp_path / "nowhere" / "log.jsonl")
