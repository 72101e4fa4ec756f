"""Requests of the served release and of a canary, from Envoy's statistics."""

from __future__ import annotations

import math
import urllib.request
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from delugeserve.serving.fleet.status import Traffic
from delugeserve.system.imports import require

_PAGE = "/stats/prometheus?filter=cluster%5C.(replicas|canary).*(rq_time|grpc|rq_xx|rq_total)"
_TIMEOUT = 2.0  # seconds
_HTTP = "-http"  # end of the names of the clusters for HTTP


@dataclass(frozen=True)
class Counters:
    """Counters of one cluster, which only rise.

    Attributes:
        requests: number of requests.
        errors: number of those that failed.
        buckets: number of requests up to a duration, by duration in milliseconds.
    """

    requests: int = 0
    errors: int = 0
    buckets: Mapping[float, int] = field(default_factory=dict)

    def since(self, earlier: Counters) -> Traffic:
        """Return what happened after an earlier reading; all, if Envoy has started again."""
        if self.requests < earlier.requests:
            earlier = Counters()
        counts = {
            limit: count - earlier.buckets.get(limit, 0)
            for limit, count in sorted(self.buckets.items())
        }
        return Traffic(
            self.requests - earlier.requests,
            max(self.errors - earlier.errors, 0),
            percentile(counts, 0.5),
            percentile(counts, 0.99),
        )


def read_counters(address: str) -> dict[str, Counters]:
    """Return the counters of each cluster, those for HTTP included.

    Args:
        address: ``host:port`` of Envoy's statistics.

    Raises:
        OSError: Envoy does not answer.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never for loopback
    with opener.open(f"http://{address}{_PAGE}", timeout=_TIMEOUT) as answer:
        return parse_counters(answer.read().decode("utf-8", "replace"))


def parse_counters(page: str) -> dict[str, Counters]:
    """Return the counters of each cluster from a page of Envoy's statistics."""
    parser = require("prometheus_client.parser", "server")
    requests: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    buckets: dict[str, Counter[float]] = {}
    for family in parser.text_string_to_metric_families(page):
        for sample in family.samples:
            name: str = sample.labels.get("envoy_cluster_name", "")
            http, cluster = name.endswith(_HTTP), name.removesuffix(_HTTP)
            # A failed gRPC request has the HTTP status 200.
            match sample.name, http:
                case "envoy_cluster_grpc_total", False:
                    requests[cluster] += int(sample.value)
                    errors[cluster] += int(sample.value)
                case "envoy_cluster_grpc_success" | "envoy_cluster_grpc_success_total", False:
                    errors[cluster] -= int(sample.value)
                case "envoy_cluster_upstream_rq_total", True:
                    requests[cluster] += int(sample.value)
                case "envoy_cluster_upstream_rq_xx" | "envoy_cluster_upstream_rq_xx_total", True:
                    if sample.labels.get("envoy_response_code_class") == "5":
                        errors[cluster] += int(sample.value)
                case "envoy_cluster_upstream_rq_time_bucket", _:
                    limit = float(sample.labels["le"])
                    buckets.setdefault(cluster, Counter())[limit] += int(sample.value)
    return {
        cluster: Counters(requests[cluster], errors[cluster], buckets.get(cluster, {}))
        for cluster in {*requests, *buckets}
    }


def percentile(buckets: Mapping[float, float], fraction: float) -> float | None:
    """Return a percentile from a histogram, interpolated as Prometheus does.

    Args:
        buckets: number of values up to a limit, by limit, in order; the last is infinite.
        fraction: from 0 to 1.

    Returns:
        The percentile, in the unit of the limits; None if there are no values.
    """
    total = max(buckets.values(), default=0.0)
    if total <= 0:
        return None
    wanted, lower, below = fraction * total, 0.0, 0.0
    for limit, count in buckets.items():
        if count >= wanted:
            if math.isinf(limit):
                return lower
            share = (wanted - below) / (count - below) if count > below else 1.0
            return lower + (limit - lower) * share
        lower, below = limit, count
    return lower
