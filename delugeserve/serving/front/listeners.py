"""Envoy's listeners, and the filters that a request passes."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

from delugeserve.serving.front import filters, observing, replies, routes
from delugeserve.serving.front.clusters import ADMIN, Config, socket_address, typed
from delugeserve.serving.front.settings import FrontSettings
from delugeserve.serving.front.tls import transport_socket

_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_REQUEST_ID = "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig"
_HEADER_MUTATION = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
STATS_PATHS = ("/stats", "/stats/prometheus", "/clusters", "/ready")


def public_listener(
    name: str, port: int, settings: FrontSettings, route_source: Config, secrets: Path
) -> Config:
    """Return a listener for clients.

    Args:
        name: ``grpc`` or ``http``.
        port: its port.
        settings: the front's settings.
        route_source: the field that says where its routes are.
        secrets: folder of the files that name certificates.
    """
    manager = _connection_manager(name, settings, route_source, filters.public_filters(settings))
    manager["access_log"] = observing.access_log(settings)
    manager["early_header_mutation_extensions"] = [_own_headers(settings)]
    listener = _listener(name, settings.address, port, settings, manager)
    listener["traffic_direction"] = "INBOUND"  # which is what a drain closes
    tls = transport_socket(settings.security, secrets, http1=name == routes.HTTP)
    if tls is not None:
        listener["filter_chains"][0]["transport_socket"] = tls
        listener["filter_chains"][0]["transport_socket_connect_timeout"] = routes.seconds(
            settings.limits.header_seconds
        )
    return listener


def internal_listener(port: int, settings: FrontSettings, route_source: Config) -> Config:
    """Return the gRPC listener for the gateway: on loopback, without authentication."""
    manager = _connection_manager(
        routes.INTERNAL, settings, route_source, filters.internal_filters(settings)
    )
    listener = _listener(routes.INTERNAL, "127.0.0.1", port, settings, manager)
    # While the front drains, the gateway still asks for what it has accepted.
    listener["drain_type"] = "MODIFY_ONLY"
    return listener


def stats_listener(port: int) -> Config:
    """Return the listener for Envoy's statistics: on loopback, to read only."""
    manager = {
        "stat_prefix": "stats",
        "codec_type": "HTTP1",
        "route_config": {
            "name": "stats",
            "virtual_hosts": [
                {
                    "name": "stats",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {
                                "path": path,
                                "headers": [{"name": ":method", "string_match": {"exact": "GET"}}],
                            },
                            "route": {"cluster": ADMIN},
                        }
                        for path in STATS_PATHS
                    ],
                }
            ],
        },
        "http_filters": [filters.router()],
    }
    return {
        "name": "stats",
        "address": socket_address("127.0.0.1", port),
        "enable_reuse_port": False,
        "filter_chains": [{"filters": [_network_filter(manager)]}],
    }


def _listener(
    name: str, address: str, port: int, settings: FrontSettings, manager: Config
) -> Config:
    where: dict[str, Any] = socket_address(address, port)
    if ipaddress.ip_address(address) == ipaddress.ip_address("::"):
        where["socket_address"]["ipv4_compat"] = True
    return {
        "name": name,
        "address": where,
        # Otherwise a second server could listen on the same port without an error.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": settings.limits.request_bytes,
        "filter_chains": [{"filters": [_network_filter(manager)]}],
    }


def _connection_manager(
    name: str, settings: FrontSettings, route_source: Config, http_filters: list[Config]
) -> Config:
    seconds, limits = routes.seconds, settings.limits
    manager: Config = {
        "stat_prefix": name,
        "codec_type": "AUTO" if name == routes.HTTP else "HTTP2",
        **route_source,
        "use_remote_address": True,
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        # A client's own id stays as it is, and need not be a UUID for the request to be traced.
        "request_id_extension": {
            "typed_config": typed(
                _REQUEST_ID,
                {"pack_trace_reason": False, "use_request_id_for_trace_sampling": False},
            )
        },
        "server_name": "delugeserve",
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "max_request_headers_kb": limits.header_kib,
        "request_headers_timeout": seconds(limits.header_seconds),
        "request_timeout": seconds(limits.receive_seconds),
        # An answer may take its whole time without a byte on the connection.
        "stream_idle_timeout": seconds(limits.receive_seconds + limits.answer_seconds),
        "drain_timeout": "1s",
        "common_http_protocol_options": {
            "idle_timeout": seconds(limits.idle_seconds),
            "max_headers_count": limits.header_count,
        },
        "http2_protocol_options": {
            "max_concurrent_streams": limits.streams,
            "initial_stream_window_size": 1 << 20,
            "initial_connection_window_size": 1 << 24,
        },
        "local_reply_config": replies.local_replies(limits, grpc=name != routes.HTTP),
        "http_filters": http_filters,
    }
    traced = observing.tracing(settings)
    if traced is not None:
        manager["tracing"] = traced
    return manager


def _own_headers(settings: FrontSettings) -> Config:
    """Remove the headers that a client must not set, before anything reads them.

    A client with a certificate is known by the certificate's subject.
    """
    headers = (
        filters.CLIENT_ID,
        "x-envoy-retry-on",
        "x-envoy-retry-grpc-on",
        "x-envoy-max-retries",
        "x-envoy-upstream-rq-timeout-ms",
        "x-envoy-upstream-rq-per-try-timeout-ms",
        "x-envoy-upstream-rq-timeout-alt-response",
        "x-envoy-hedge-on-per-try-timeout",
        "x-envoy-retriable-status-codes",
        "x-envoy-retriable-header-names",
        "x-envoy-upstream-alt-stat-name",
        "x-envoy-force-trace",
    )
    mutations: list[Config] = [{"remove": header} for header in headers]
    if settings.security.client_ca is not None:
        named = {"key": filters.CLIENT_ID, "value": "%DOWNSTREAM_PEER_SUBJECT%"}
        mutations.append({"append": {"header": named}})
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": typed(_HEADER_MUTATION, {"mutations": mutations}),
    }


def _network_filter(manager: Config) -> Config:
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": typed(_HCM, manager),
    }
