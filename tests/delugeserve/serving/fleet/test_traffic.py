"""Envoy's statistics of the served release and of a canary."""

from __future__ import annotations

import math

import pytest

from delugeserve.serving.fleet.traffic import Counters, parse_counters, percentile

PAGE = """
# TYPE envoy_cluster_grpc_success counter
envoy_cluster_grpc_success{envoy_cluster_name="replicas"} 97
envoy_cluster_grpc_success{envoy_cluster_name="canary"} 5
# TYPE envoy_cluster_grpc_total counter
envoy_cluster_grpc_total{envoy_cluster_name="replicas"} 100
envoy_cluster_grpc_total{envoy_cluster_name="canary"} 5
# TYPE envoy_cluster_upstream_rq_total counter
envoy_cluster_upstream_rq_total{envoy_cluster_name="replicas"} 100
envoy_cluster_upstream_rq_total{envoy_cluster_name="replicas-http"} 10
# TYPE envoy_cluster_upstream_rq_timeout counter
envoy_cluster_upstream_rq_timeout{envoy_cluster_name="replicas"} 3
# TYPE envoy_cluster_upstream_rq_xx counter
envoy_cluster_upstream_rq_xx{envoy_response_code_class="5",envoy_cluster_name="replicas-http"} 2
envoy_cluster_upstream_rq_xx{envoy_response_code_class="2",envoy_cluster_name="replicas-http"} 8
# TYPE envoy_cluster_upstream_rq_time histogram
envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="replicas",le="1"} 50
envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="replicas",le="5"} 100
envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="replicas",le="+Inf"} 100
envoy_cluster_upstream_rq_time_sum{envoy_cluster_name="replicas"} 200
envoy_cluster_upstream_rq_time_count{envoy_cluster_name="replicas"} 100
"""


def test_grpc_and_http_count_together():
    found = parse_counters(PAGE)
    assert found["replicas"].requests == 110
    assert found["replicas"].errors == 5
    assert found["canary"] == Counters(5, 0, {})


def test_what_happened_since_an_earlier_reading():
    now = parse_counters(PAGE)["replicas"]
    since = now.since(Counters(10, 1, {1.0: 10, 5.0: 10, math.inf: 10}))
    assert (since.requests, since.errors) == (100, 4)
    assert since.p50_ms == pytest.approx(1.4)  # 40 of 90 below 1 ms, the others below 5 ms
    # An Envoy that was started again counts from zero.
    assert now.since(Counters(1e6, 9, {})).requests == 110


@pytest.mark.parametrize(
    ("buckets", "fraction", "expected"),
    [
        ({}, 0.5, None),
        ({1.0: 0, math.inf: 0}, 0.5, None),
        ({1.0: 4, math.inf: 4}, 0.5, 0.5),
        ({1.0: 0, 2.0: 10, math.inf: 10}, 0.99, 1.99),
        ({1.0: 1, math.inf: 10}, 0.99, 1.0),  # beyond the last limit
    ],
)
def test_percentiles_are_those_of_prometheus(buckets, fraction, expected):
    assert percentile(buckets, fraction) == (expected and pytest.approx(expected))
