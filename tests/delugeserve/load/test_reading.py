"""Verdicts: what LoadGen's log says, and what it does not."""

import json

import numpy as np
import pytest

from delugeserve.errors import Failure
from delugeserve.load import Scenario, Settings, Target
from delugeserve.load.job import Job, Observed
from delugeserve.load.logs import DETAIL, TRACE
from delugeserve.load.reading import read_result

pytest.importorskip("hdrh", reason="load tests need the extra 'benchmark'")

SEEN = Observed(
    answers=1, errors=0, first_error=None, checked=1, wrong=0, cpu_seconds=0.1, seconds=1.0
)
SAMPLE = (
    '{"name":"Sample","ph":"X","ts":5.0,"args":{"sample_seq":0,"query_seq":0,"x":1,'
    '"issue_start_ns":10,"complete_ns":2000000}}\n'
)


def read(folder, *lines, trace=SAMPLE):
    (folder / DETAIL).write_text("".join(f":::MLLOG {line}\n" for line in lines))
    (folder / TRACE).write_text(trace)
    target = Target("stub:1", "stub", np.zeros((1, 2, 2, 3), np.uint8))
    job = Job(target, Settings(Scenario.SERVER), lambda _: None, folder)
    return read_result(job, SEEN, load=(None, None), folder=None)


def entry(key, value):
    return json.dumps({"key": key, "value": value})


def test_a_valid_test(tmp_path):
    assert read(tmp_path, entry("result_validity", "VALID")).valid


@pytest.mark.parametrize(
    "lines",
    [
        (),
        (entry("result_scheduled_samples_per_sec", 9.0), '{"key": "result_valid'),
        (entry("result_validity", "INVALID"),),
        (entry("result_validity", "VALID"), entry("result_validity", "INVALID")),
    ],
)
def test_a_log_without_a_verdict_is_not_valid(tmp_path, lines):
    result = read(tmp_path, *lines)
    assert not result.valid
    assert result.reasons


def test_a_trace_without_queries(tmp_path):
    with pytest.raises(Failure):
        read(tmp_path, entry("result_validity", "VALID"), trace="")
