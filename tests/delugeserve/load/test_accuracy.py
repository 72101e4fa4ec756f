"""Is the latency of a load test what the stub's own clock says, counted from the scheduled time?"""

import numpy as np
import pytest

from benchmarks.stub_sender import ANSWER, Delays, OpenStub
from delugeserve.load import Scenario, Settings, Target, run

pytest.importorskip("mlperf_loadgen", reason="load tests need the extra 'benchmark'")

TARGET = Target("stub:1", "stub", np.zeros((8, 2, 2, 3), np.uint8), np.tile(ANSWER, (8, 1)))


def test_a_stall_shows_from_the_scheduled_time(tmp_path):
    """Coordinated omission: requests that were due during a stall are late, though few were sent.

    Single stream, which sends one at a time, has one slow request; its p99 does not see the stall.
    """
    stall = Delays("stall", mean=0.001, stall_at=0.5, stall=1.0)
    chosen = Settings(
        Scenario.SERVER, duration=2.0, rate=100.0, min_queries=200, warmup=0, latency_budget=0.1
    )
    record = tmp_path / "times.npy"
    result = run(TARGET, chosen, sender=OpenStub(stall, str(record)))
    sent, answered = np.load(record).T
    assert result.max_ms == pytest.approx((answered - sent).max() * 1e3, rel=0.1)
    assert result.max_ms > 800
    assert result.percentiles_ms["90"] > 300  # a third of the queries was due in the stall
    assert not result.valid
    alone = Settings(Scenario.SINGLE_STREAM, duration=2.0, min_queries=50, warmup=0)
    one = run(TARGET, alone, sender=OpenStub(stall))
    assert one.max_ms > 800
    assert one.percentiles_ms["90"] < 300


def test_a_client_that_waits_does_not_hide_a_stall(tmp_path):
    """The sender blocks, so that nothing is sent in the stall; what was due then counts as late."""
    stall = Delays("stall", mean=0.0, stall_at=0.5, stall=0.6)
    chosen = Settings(Scenario.SERVER, duration=1.5, rate=100.0, min_queries=100, warmup=0)
    record = tmp_path / "times.npy"
    result = run(TARGET, chosen, sender=OpenStub(stall, str(record), blocking=True))
    sent, answered = np.load(record).T
    assert np.count_nonzero(answered - sent > 0.2) == 1  # by the sender's own clock
    assert result.percentiles_ms["90"] > 200
    assert result.issue_delay_p99_ms > 200
    assert result.client_limit is not None
