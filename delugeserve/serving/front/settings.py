"""What the front listens on, where it sends requests, and its limits."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from delugeserve.serving import ports
from delugeserve.serving.front.security import Security

MIB = 1 << 20


@dataclass(frozen=True)
class Upstream:
    """A replica: one tritonserver on this machine's loopback address.

    Attributes:
        name: its name, unique among the replicas of a front.
        grpc_port: port of its gRPC endpoint.
        http_port: port of its HTTP endpoint; None if it has none.
    """

    name: str
    grpc_port: int
    http_port: int | None

    @property
    def grpc_address(self) -> str:
        """``host:port`` of its gRPC endpoint."""
        return ports.join(ports.LOOPBACK, self.grpc_port)


@dataclass(frozen=True)
class Routing:
    """Which replicas get requests.

    Attributes:
        active: the replicas that share the requests.
        standby: replicas of the same release that get them when no active one is healthy.
        canary: replicas of another release that get ``canary_share`` of the requests.
        canary_share: share of the canary, from 0 to 1.
    """

    active: tuple[Upstream, ...]
    standby: tuple[Upstream, ...] = ()
    canary: tuple[Upstream, ...] = ()
    canary_share: float = 0.0

    @property
    def upstreams(self) -> tuple[Upstream, ...]:
        """All replicas."""
        return (*self.active, *self.standby, *self.canary)


@dataclass(frozen=True)
class Limits:
    """What a client may ask for.

    Attributes:
        request_bytes: largest request, as sent.
        json_bytes: largest request of JSON, without its binary tensors.
        json_depth: deepest nesting of JSON.
        header_kib: all headers of a request together, in KiB.
        header_count: number of headers of a request.
        header_seconds: time a client has to send the headers.
        receive_seconds: time a client has to send the whole request.
        answer_seconds: time until the answer, retries included.
        try_seconds: time one replica has to answer, before another is asked.
        idle_seconds: time after which a connection without requests is closed.
        connections: open connections of all clients.
        streams: concurrent requests on one HTTP/2 connection.
        requests: concurrent requests of all clients.
        memory_bytes: memory of the front; near it, new requests are refused.
        requests_per_second: requests per second of one client; None means any number.
        burst: requests that a client may send at once before that rate counts.
    """

    request_bytes: int = 64 * MIB
    json_bytes: int = 4 * MIB
    json_depth: int = 64
    header_kib: int = 32
    header_count: int = 64
    header_seconds: float = 10.0
    receive_seconds: float = 30.0
    answer_seconds: float = 60.0
    try_seconds: float = 20.0
    idle_seconds: float = 300.0
    connections: int = 4096
    streams: int = 256
    requests: int = 4096
    memory_bytes: int = 1024 * MIB
    requests_per_second: float | None = None
    burst: int = 50


def worker_threads() -> int:
    """Return how many threads of Envoy suit this machine: one for eight cores.

    One handles thousands of requests a second, as many as eight cores classify.
    """
    return max(1, len(os.sched_getaffinity(0)) // 8)


@dataclass(frozen=True)
class FrontSettings:
    """How the front is reached.

    Attributes:
        address: IPv4 or IPv6 address that it listens on.
        grpc_port: port for gRPC.
        http_port: port for HTTP; None turns HTTP off.
        gateway_port: port of the gateway on this machine; None if there is none.
        security: TLS and authentication.
        limits: limits for requests.
        tracing: address of an OpenTelemetry collector's gRPC endpoint, such as
            ``http://localhost:4317``; None sends no traces.
        tracing_share: share of requests that are traced, from 0 to 1.
        access_log: file that gets a line of JSON for each request; None writes none.
        concurrency: worker threads of Envoy.
    """

    address: str
    grpc_port: int
    http_port: int | None
    gateway_port: int | None
    security: Security = field(default_factory=Security)
    limits: Limits = field(default_factory=Limits)
    tracing: str | None = None
    tracing_share: float = 1.0
    access_log: Path | None = None
    concurrency: int = field(default_factory=worker_threads)
