"""Load tests against stubs of known delays: MLPerf's LoadGen, closed loop, checks and verdicts."""

import numpy as np
import pytest

from benchmarks.stub_sender import ANSWER, Delays, OpenStub
from delugeserve.errors import Failure
from delugeserve.load import Scenario, Settings, Target, run
from delugeserve.load.audit import audit_cache
from delugeserve.load.logs import DETAIL, SUMMARY, TRACE

pytest.importorskip("mlperf_loadgen", reason="load tests need the extra 'benchmark'")

IMAGES = np.zeros((8, 2, 2, 3), np.uint8)
TARGET = Target("stub:1", "stub", IMAGES, expected=np.tile(ANSWER, (8, 1)), timeout=20.0)


def settings(scenario, **more):
    chosen = {"duration": 0.3, "min_queries": 20, "warmup": 0.0, "rate": 200.0, **more}
    return Settings(Scenario(scenario), **chosen)


def test_the_server_scenario(tmp_path):
    result = run(
        TARGET,
        settings("server", rate=400.0, latency_budget=10.0, min_queries=700),
        sender=OpenStub(Delays(mean=0.001)),
        output=tmp_path / "logs",
    )
    assert result.valid, result.reasons
    assert (result.errors, result.wrong) == (0, 0)
    assert result.checked == result.queries >= 700
    assert result.scheduled_rate == pytest.approx(400, rel=0.2)
    assert result.min_ms >= 1.0
    assert result.loadgen["result_validity"] == "VALID"
    assert "VALID" in (tmp_path / "logs" / SUMMARY).read_text()
    assert (tmp_path / "logs" / DETAIL).exists()
    assert not (tmp_path / "logs" / TRACE).exists()


def test_a_budget_that_is_not_kept():
    result = run(
        TARGET, settings("server", latency_budget=0.001), sender=OpenStub(Delays(mean=0.02))
    )
    assert not result.valid
    assert result.over_budget == result.queries
    (reason,) = result.reasons
    assert "above the budget of 1 ms" in reason
    assert "QPS" in result.loadgen["result_invalid_reason"]


@pytest.mark.parametrize(
    ("scenario", "batch", "images"),
    [("single-stream", 1, 1), ("multi-stream", 4, 4), ("closed-loop", 1, 1)],
)
def test_latency_is_that_of_the_sender(tmp_path, scenario, batch, images):
    record = tmp_path / "times.npy"
    result = run(
        TARGET,
        settings(scenario, streams=4, in_flight=1),
        sender=OpenStub(Delays(mean=0.005), str(record)),
    )
    sent, answered = np.load(record).T
    assert result.batch_size == batch
    assert result.queries >= 20
    assert result.images_per_s == pytest.approx(result.completed_rate * images)
    # The stub's own clock starts later and ends earlier, so its times are a little less.
    assert result.min_ms >= 5.0
    median = np.percentile(answered - sent, 50, method="inverted_cdf")
    assert median * 1e3 <= result.percentiles_ms["50"] * 1.02
    assert result.issue_delay_p99_ms <= result.max_ms


def test_offline_keeps_some_requests_in_flight():
    result = run(
        TARGET, settings("offline", in_flight=4, rate=500.0), sender=OpenStub(Delays(mean=0.002))
    )
    assert result.in_flight == 4
    assert result.queries >= 100
    assert result.errors == 0


def test_failed_requests_and_wrong_answers_are_not_valid():
    stub = OpenStub(Delays(mean=0.002), fail_every=5)
    failing = run(TARGET, settings("closed-loop", in_flight=2), sender=stub)
    assert not failing.valid
    assert failing.errors > 0
    assert failing.first_error == "UNAVAILABLE: stub"
    stub = OpenStub(Delays(mean=0.001), wrong=True)
    wrong = run(TARGET, settings("server", rate=100.0, latency_budget=10.0), sender=stub)
    assert not wrong.valid
    assert wrong.wrong == wrong.checked == wrong.queries


def test_a_server_that_answers_nothing():
    with pytest.raises(Failure) as caught:
        run(TARGET, settings("closed-loop"), sender=OpenStub(Delays(mean=0.001), fail_every=1))
    assert "UNAVAILABLE: stub" in caught.value.problem


def test_a_cache_is_seen():
    chosen = settings("closed-loop", in_flight=1)
    for same, suspicious in ((0.25, True), (1.0, False)):
        stub = OpenStub(Delays(mean=0.02), same=same)
        audit = audit_cache(TARGET, chosen, sender=stub)
        assert audit.suspicious is suspicious
