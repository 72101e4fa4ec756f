"""The gateway's own metrics, and one page of them with those of the servers and of the proxy."""

from __future__ import annotations

import asyncio
import contextlib
import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from delugeserve.serving.gateway.exposition import Family, read_page, write_labels, write_page

#: Paths with a time series of their own; all others share one.
PATHS = ("/classify", "/models", "/healthz", "/readyz", "/openapi.json", "/docs")
OTHER = "other"

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SCRAPE_SECONDS = 2.0
_MOST_BYTES = 16 * 2**20  # of a page
# Envoy has more than a thousand metrics. These are about requests, endpoints and connections.
_OF_CLUSTERS = (
    "membership_(healthy|total)|outlier_detection_ejections_(active|enforced_total)"
    "|upstream_rq_(active|pending_overflow|retry|retry_overflow|retry_success|time|timeout|total|xx)"
    "|upstream_cx_(active|connect_fail|total)|grpc_\\d+"
)
_OF_LISTENERS = "downstream_rq_(active|time|timeout|total|xx)|downstream_cx_(active|total)"
_OF_ENVOY = re.compile(
    f"envoy_(cluster_({_OF_CLUSTERS})|http_({_OF_LISTENERS})|http_local_rate_limit_rate_limited"
    "|server_(live|memory_allocated|uptime))"
)
_GRPC = re.compile(r"envoy_cluster_grpc_(\d+)")
_GRPC_STATUSES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
    "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",
    "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip  # by number
# Requests for these very metrics.
_ADMIN = re.compile(r'envoy_(http_conn_manager_prefix|cluster_name)="(admin|stats)"')


@dataclass(frozen=True)
class Sources:
    """Where the metrics of others are.

    Attributes:
        replicas: URL of each server's page, by the server's name.
        envoy: URL of Envoy's page; None without one.
        families: metrics that are known already, such as the supervisor's.
    """

    replicas: Mapping[str, str] = field(default_factory=dict)
    envoy: str | None = None
    families: tuple[Family, ...] = ()


class Metrics:
    """Counts what the gateway does."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "delugeserve_gateway_requests",
            "Requests, by path and HTTP status; 499 is a client that left.",
            ("path", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "delugeserve_gateway_request_seconds",
            "Time from a request's headers to the end of its answer.",
            ("path",),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._images = Counter(
            "delugeserve_gateway_images",
            "Images, by model, version and HTTP status; the version is empty without an answer.",
            ("model", "version", "status"),
            registry=self._registry,
        )
        self.in_flight = Gauge(
            "delugeserve_gateway_requests_in_flight",
            "Requests to /classify that are being answered.",
            registry=self._registry,
        )
        self.held_bytes = Gauge(
            "delugeserve_gateway_held_bytes",
            "Bytes of the bodies of those requests.",
            registry=self._registry,
        )
        for path in PATHS:
            self._seconds.labels(path)

    def families(self) -> list[Family]:
        """Return what was counted."""
        text = generate_latest(self._registry).decode()
        return read_page(text, keep=lambda name: not name.endswith("_created"))

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        path = path if path in PATHS else OTHER
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def image(self, model: str, version: str, status: int) -> None:
        """Count an image of a model that is served."""
        self._images.labels(model, version, str(status)).inc()


async def collect(metrics: Metrics, sources: Sources) -> str:
    """Return one page: the gateway's own metrics, and those of all sources that answer."""
    pages = [
        _scrape(name, url, {"replica": name}) for name, url in sorted(sources.replicas.items())
    ]
    if sources.envoy is not None:
        pages.append(_scrape("envoy", sources.envoy, {}))
    up = Family("delugeserve_scrape_up", "gauge", "1 if a source of metrics answered, 0 if not.")
    families = [*metrics.families(), *sources.families]
    for name, page in await asyncio.gather(*pages):
        labels = write_labels({"source": name})
        up.samples.append(f"{up.name}{{{labels}}} {0 if page is None else 1}")
        families += page or []
    return write_page([*families, up])


async def _scrape(
    name: str, url: str, labels: Mapping[str, str]
) -> tuple[str, list[Family] | None]:
    try:
        return name, await asyncio.to_thread(_read, url, labels)
    except (OSError, ValueError):  # it is starting, stopping or dead
        return name, None


def _read(url: str, labels: Mapping[str, str]) -> list[Family]:
    # A proxy in the environment is not for servers of this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.closing(opener.open(url, timeout=_SCRAPE_SECONDS)) as reply:
        text = reply.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise ValueError(f"{url} has more than {_MOST_BYTES} bytes")
    families = read_page(text.decode("utf-8"), labels, _is_wanted)
    for family in families:
        family.samples = [line for line in family.samples if not _ADMIN.search(line)]
    return [_by_status(family) for family in families if family.samples]


def _by_status(family: Family) -> Family:
    """Turn Envoy's metric of one gRPC status into a label, so that statuses can be summed."""
    found = _GRPC.fullmatch(family.name)
    if not found or int(found[1]) >= len(_GRPC_STATUSES):
        return family
    label = write_labels({"grpc_status": _GRPC_STATUSES[int(found[1])]})
    return Family(
        "delugeserve_grpc_answers_total",
        "counter",
        "Answers of the servers to clients over gRPC, by status.",
        [
            line.replace(f"{family.name}{{", f"delugeserve_grpc_answers_total{{{label},", 1)
            for line in family.samples
        ],
    )


def _is_wanted(name: str) -> bool:
    return not name.startswith("envoy_") or _OF_ENVOY.fullmatch(name) is not None
