import numpy as np
import pytest

from delugeserve_client.measurement import Samples, ServerStatistics, read_statistics, summarise

GRPC = {
    "model_stats": [
        {
            "inference_count": "30",
            "execution_count": "10",
            "inference_stats": {
                "success": {"count": "15", "ns": "9000000"},
                "queue": {"count": "15", "ns": "3000000"},
                "compute_infer": {"count": "15", "ns": "30000000"},
            },
        },
        {"version": "2"},
        {
            "inference_count": 3,
            "execution_count": 1,
            "inference_stats": {"queue": {"count": 1, "ns": 200000}},
        },
    ]
}


def summary(latencies=(0.001, 0.002, 0.003, 0.004), server=None, errors=0):
    samples = Samples(list(latencies), [ValueError()] * errors, seconds=2.0)
    return summarise("net", 2, 3, samples, server or read_statistics(GRPC))


def test_figures():
    m = summary(errors=1)
    assert (m.batch_size, m.concurrency) == (2, 3)
    assert (m.requests, m.errors, m.images_per_s) == (4, 1, 4.0)
    assert m.p50_ms == pytest.approx(2.5)
    assert m.mean_ms == pytest.approx(2.5)
    assert (m.queue_ms, m.compute_infer_ms, m.compute_output_ms) == (0.2, 2.0, 0.0)
    assert m.executed_batch == 3.0


def test_percentiles_are_of_all_samples():
    latencies = np.random.default_rng(0).permutation(np.arange(1001)) / 1e3
    m = summary(latencies)
    assert (m.p50_ms, m.p90_ms, m.p95_ms, m.p99_ms) == pytest.approx((500, 900, 950, 990))


def test_only_the_difference_of_the_statistics_counts():
    after = read_statistics(GRPC)
    assert (after.inferences, after.executions, after.queue.count) == (33, 11, 16)
    assert after.since(ServerStatistics()) == after
    assert after.since(after) == ServerStatistics()
    idle = summary(server=after.since(after))
    assert (idle.queue_ms, idle.executed_batch) == (0.0, 0.0)


def test_rounded_figures_have_six_significant_digits():
    row = summary([0.011129999999999999, 1 / 3]).rounded()
    assert row["p50_ms"] == 172.232
    assert all(len(f"{value!r}".replace(".", "").strip("0")) <= 6 for value in row.values()
               if isinstance(value, float))  # fmt: skip
    assert (row["model"], row["requests"]) == ("net", 2)
