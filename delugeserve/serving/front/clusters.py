"""Envoy's clusters: the replicas, the gateway, the admin socket, the collector of traces.

Each function returns a part of Envoy's configuration as a dict, as its JSON form has it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from delugeserve.serving.front.settings import Limits

Config = dict[str, Any]

REPLICAS = "replicas"
CANARY = "canary"
HTTP_SUFFIX = "-http"
GATEWAY = "gateway"
ADMIN = "admin"
TRACING = "tracing"
TYPES = "type.googleapis.com"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_CODEC = "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"
_LUA = "envoy.extensions.filters.http.lua.v3.Lua"
#: The folder of the Lua scripts.
SCRIPTS = Path(__file__).with_name("lua")
_UNLIMITED = 1_000_000  # the limits are those of the listeners


def replica_cluster(name: str, limits: Limits, *, http: bool, source: Config) -> Config:
    """Return a cluster of replicas, for gRPC or for HTTP.

    Args:
        name: its name.
        limits: limits for requests.
        http: talk HTTP/1.1 to Triton's HTTP endpoint, instead of HTTP/2 to its gRPC endpoint.
        source: the fields that say where its endpoints come from.
    """
    return {
        "name": name,
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        **source,
        "typed_extension_protocol_options": _protocol(http=http, more=_faults(http=http)),
        "health_checks": [_health_check(http=http)],
        # Workers learn at once that a host is healthy or not; otherwise within a second.
        "common_lb_config": {"update_merge_window": "0s"},
        # A host that is no longer named gets no request, even while it is healthy.
        "ignore_health_on_host_removal": True,
        # Requests in flight at a server that hangs are retried at another.
        "close_connections_on_host_health_failure": True,
        "outlier_detection": {
            "consecutive_5xx": 5,
            "consecutive_gateway_failure": 5,
            "enforcing_consecutive_gateway_failure": 100,
            "interval": "1s",
            "base_ejection_time": "5s",
            "max_ejection_time": "30s",
            # The standby stays when the active replica is ejected.
            "max_ejection_percent": 50,
            # A server is healthy although the process of one of its models has died.
            "successful_active_health_check_uneject_host": False,
            "enforcing_success_rate": 0,
            "enforcing_failure_percentage": 0,
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    "priority": "DEFAULT",
                    "max_connections": _UNLIMITED,
                    "max_pending_requests": limits.requests,
                    "max_requests": limits.requests,
                    "max_retries": limits.requests,
                }
            ]
        },
    }


def endpoint(port: int, *, name: str = "", draining: bool = False) -> Config:
    """Return an endpoint on this machine's loopback address."""
    found: Config = {"endpoint": {"address": socket_address("127.0.0.1", port)}}
    if name:
        found["endpoint"]["hostname"] = name
    if draining:
        found["health_status"] = "DRAINING"
    return found


def socket_address(address: str, port: int) -> Config:
    """Return a TCP address."""
    return {"socket_address": {"address": address, "port_value": port}}


def local_cluster(name: str, address: Config) -> Config:
    """Return a cluster of one process of this machine that speaks HTTP/1.1."""
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": _protocol(http=True),
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": _UNLIMITED,
                    "max_pending_requests": _UNLIMITED,
                    "max_requests": _UNLIMITED,
                    "max_retries": _UNLIMITED,
                }
            ]
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def dns_cluster(name: str, host: str, port: int) -> Config:
    """Return a cluster of one gRPC server, by its host name or address."""
    return {
        "name": name,
        "connect_timeout": "1s",
        "cluster_type": dns(),
        "typed_extension_protocol_options": _protocol(http=False),
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": socket_address(host, port)}}]}
            ],
        },
    }


def dns() -> Config:
    """Return the type of a cluster whose endpoints are all addresses of a host name."""
    return {
        "name": "envoy.clusters.dns",
        "typed_config": typed(
            "envoy.extensions.clusters.dns.v3.DnsCluster",
            {
                "dns_refresh_rate": "2s",
                "all_addresses_in_single_endpoint": False,
                # A server that listens on 0.0.0.0 often has an IPv6 address in DNS too.
                "dns_lookup_family": "V4_PREFERRED",
            },
        ),
    }


def typed(message: str, fields: Config) -> Config:
    """Return a message with its type."""
    return {"@type": f"{TYPES}/{message}", **fields}


def _protocol(*, http: bool, more: Config | None = None) -> Config:
    explicit: Config = {"http_protocol_options": {}} if http else {"http2_protocol_options": {}}
    return {_HTTP_OPTIONS: typed(_HTTP_OPTIONS, {"explicit_http_config": explicit, **(more or {})})}


def _faults(*, http: bool) -> Config:
    """Return what tells a broken replica from one that is busy.

    One whose model process died answers INTERNAL. A full queue and a time limit that passed in it
    come from load, which would only grow for the others if the replica was left out.
    """
    if http:
        broken = {"name": ":status", "string_match": {"exact": "500"}}
        match = {"http_response_headers_match": {"headers": [broken]}}
        return {"outlier_detection": {"error_matcher": match}}
    # For gRPC, Envoy judges by the status alone; RESOURCE_EXHAUSTED is not a fault.
    return {
        "http_filters": [
            script("delugeserve.overload", "overload"),
            {
                "name": "envoy.filters.http.upstream_codec",
                "typed_config": typed(_CODEC, {}),
            },
        ]
    }


def script(name: str, *files: str) -> Config:
    """Return an HTTP filter that runs the Lua code of some files.

    Args:
        name: name of the filter, ``delugeserve.`` and a word for its statistics.
        files: names of the files in the folder ``lua``, without their suffix.
    """
    code = "\n".join((SCRIPTS / f"{file}.lua").read_text(encoding="utf-8") for file in files)
    fields = {
        "default_source_code": {"inline_string": code},
        "stat_prefix": name.partition(".")[2],
    }
    return {"name": name, "typed_config": typed(_LUA, fields)}


def _health_check(*, http: bool) -> Config:
    kind: Config = (
        {"http_health_check": {"path": "/v2/health/ready"}} if http else {"grpc_health_check": {}}
    )
    return {
        "interval": "1s",
        "no_traffic_interval": "1s",
        "timeout": "1.5s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        **kind,
    }
