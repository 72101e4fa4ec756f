"""What is recorded of each request: a line of the access log, and a trace."""

from __future__ import annotations

from urllib.parse import urlsplit

from delugeserve.errors import UsageError
from delugeserve.serving.front.clusters import TRACING, Config, dns_cluster, typed
from delugeserve.serving.front.settings import FrontSettings

#: Fields of a line of the access log, and what Envoy puts there. No header with a key is among
#: them, and no query of a path.
LOG_FIELDS = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "client": "%REQ(X-CLIENT-ID)%",
    "address": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "method": "%REQ(:METHOD)%",
    "path": "%PATH(NQ)%",
    "model": "%DYNAMIC_METADATA(delugeserve:model)%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS_NUMBER%",
    "details": "%RESPONSE_FLAGS%",
    "duration_ms": "%DURATION%",
    "replica_ms": "%REQUEST_TX_DURATION%",
    "tries": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "replica": "%UPSTREAM_HOST%",
    "received_bytes": "%BYTES_RECEIVED%",
    "sent_bytes": "%BYTES_SENT%",
    "trace_id": "%TRACE_ID%",
}
_FILE = "envoy.extensions.access_loggers.file.v3.FileAccessLog"
_OPENTELEMETRY = "envoy.config.trace.v3.OpenTelemetryConfig"
_GRPC_PORT = 4317  # of the OpenTelemetry protocol


def access_log(settings: FrontSettings) -> list[Config]:
    """Return the access log of a listener: one line of JSON for each request."""
    if settings.access_log is None:
        return []
    fields: Config = {
        "path": str(settings.access_log.absolute()),
        "log_format": {"json_format": LOG_FIELDS},
    }
    return [{"name": "envoy.access_loggers.file", "typed_config": typed(_FILE, fields)}]


def tracing(settings: FrontSettings) -> Config | None:
    """Return what a listener sends to the collector of traces; None if there is none."""
    if settings.tracing is None:
        return None
    fields: Config = {
        "grpc_service": {"envoy_grpc": {"cluster_name": TRACING}, "timeout": "1s"},
        "service_name": "delugeserve",
    }
    return {
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": typed(_OPENTELEMETRY, fields),
        },
        "random_sampling": {"value": 100 * settings.tracing_share},
        "spawn_upstream_span": True,
    }


def collector_cluster(settings: FrontSettings) -> Config | None:
    """Return the cluster of the collector of traces; None if there is none."""
    if settings.tracing is None:
        return None
    host, port = collector_address(settings.tracing)
    return dns_cluster(TRACING, host, port)


def collector_address(url: str) -> tuple[str, int]:
    """Return host and port of a collector that speaks the OpenTelemetry protocol over gRPC.

    Raises:
        UsageError: the address is not such as ``http://localhost:4317``.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _GRPC_PORT
    except ValueError:
        host = None
    if not host or parts.scheme != "http" or parts.path not in ("", "/"):
        raise UsageError(
            f"'{url}' is not the address of a collector of traces.",
            "Use the address of its gRPC endpoint, such as http://localhost:4317.",
        )
    return host, port
