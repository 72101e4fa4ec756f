"""Envoy's whole configuration: one template, for this machine and for a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from delugeserve.serving.front import clusters, listeners, observing, routes
from delugeserve.serving.front.clusters import CANARY, HTTP_SUFFIX, REPLICAS, Config
from delugeserve.serving.front.settings import FrontSettings

_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 30000, 60000)  # ms


_HEAP = "envoy.resource_monitors.fixed_heap"


class RoutingSource(Protocol):
    """Where Envoy finds the replicas and the routes to them."""

    def endpoints(self, cluster: str) -> Config:
        """Return the fields of a cluster that say where its endpoints are."""

    def routes(self, listener: str, settings: FrontSettings) -> Config:
        """Return the field of a connection manager that says where its routes are."""

    @property
    def cluster_names(self) -> tuple[str, ...]:
        """The clusters of replicas for gRPC."""

    @property
    def secrets(self) -> Path:
        """Folder of the files that name certificates."""


@dataclass(frozen=True)
class FileRouting:
    """Routing from files that Envoy watches.

    Attributes:
        folder: the folder of the files.
    """

    folder: Path
    cluster_names = (REPLICAS, CANARY)

    @property
    def secrets(self) -> Path:
        """Folder of the files that name certificates."""
        return self.folder

    def endpoints(self, cluster: str) -> Config:
        """Return the fields of a cluster whose endpoints are in a file."""
        source = self._watched(f"endpoints-{cluster}.json")
        return {"type": "EDS", "eds_cluster_config": {"eds_config": source}}

    def routes(self, listener: str, settings: FrontSettings) -> Config:
        """Return the field of a connection manager whose routes are in a file."""
        source = self._watched(f"routes-{listener}.json")
        return {"rds": {"route_config_name": listener, "config_source": source}}

    def _watched(self, name: str) -> Config:
        return {
            "resource_api_version": "V3",
            "initial_fetch_timeout": "10s",
            "path_config_source": {"path": str(self.folder / name)},
        }


@dataclass(frozen=True)
class DnsRouting:
    """Routing to every address of a host name, such as that of a headless Kubernetes Service.

    At each address there is a whole ``delugeserve serve``, with its own front and gateway.

    Attributes:
        host: the host name.
        grpc_port: port of the replicas' gRPC endpoint.
        http_port: port of their HTTP endpoint.
        secrets: folder of the files that name certificates, whose content
            :func:`delugeserve.serving.front.tls.secret` returns.
    """

    host: str
    grpc_port: int
    http_port: int
    secrets: Path = Path("/etc/envoy")
    cluster_names = (REPLICAS,)

    def endpoints(self, cluster: str) -> Config:
        """Return the fields of a cluster whose endpoints are the addresses of the host name."""
        port = self.http_port if cluster.endswith(HTTP_SUFFIX) else self.grpc_port
        address = clusters.socket_address(self.host, port)
        return {
            "cluster_type": clusters.dns(),
            "load_assignment": {
                "cluster_name": cluster,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
            },
        }

    def routes(self, listener: str, settings: FrontSettings) -> Config:
        """Return the field of a connection manager that holds its routes."""
        made = routes.route_configuration(listener, settings, canary_share=0.0, gateways=True)
        return {"route_config": made}


@dataclass(frozen=True)
class LoopbackPorts:
    """The front's own ports on this machine.

    Attributes:
        internal: port of the gRPC listener for the gateway.
        stats: port of Envoy's statistics.
    """

    internal: int
    stats: int


def envoy_config(
    settings: FrontSettings,
    source: RoutingSource,
    ports: LoopbackPorts | None = None,
    admin_socket: Path | None = None,
) -> Config:
    """Return the bootstrap configuration of Envoy.

    Args:
        settings: what it listens on, and its limits.
        source: where it finds the replicas.
        ports: its ports on loopback; None leaves these listeners out.
        admin_socket: Unix socket for the admin interface; None leaves it out.

    Returns:
        The configuration, as its JSON and YAML form have it.
    """
    shown = [
        listeners.public_listener(
            routes.GRPC,
            settings.grpc_port,
            settings,
            source.routes(routes.GRPC, settings),
            source.secrets,
        )
    ]
    if settings.http_port is not None:
        shown.append(
            listeners.public_listener(
                routes.HTTP,
                settings.http_port,
                settings,
                source.routes(routes.HTTP, settings),
                source.secrets,
            )
        )
    config: Config = {
        "node": {"id": "delugeserve", "cluster": "delugeserve"},
        "static_resources": {"listeners": shown, "clusters": _clusters(settings, source)},
        "stats_config": {
            "histogram_bucket_settings": [
                {
                    "match": {"safe_regex": {"regex": r".*(_rq_time|_cx_length_ms)"}},
                    "buckets": list(_BUCKETS),
                }
            ]
        },
        "overload_manager": _overload(settings),
    }
    if ports is not None:
        internal = source.routes(routes.INTERNAL, settings)
        shown.append(listeners.internal_listener(ports.internal, settings, internal))
    if admin_socket is not None:
        pipe: Config = {"pipe": {"path": str(admin_socket), "mode": 0o600}}
        config["admin"] = {"address": pipe}
        if ports is not None:
            shown.append(listeners.stats_listener(ports.stats))
            config["static_resources"]["clusters"].append(
                clusters.local_cluster(clusters.ADMIN, pipe)
            )
    return config


def _clusters(settings: FrontSettings, source: RoutingSource) -> list[Config]:
    protocols = {"": False} if settings.http_port is None else {"": False, HTTP_SUFFIX: True}
    made = [
        clusters.replica_cluster(
            name + suffix, settings.limits, http=http, source=source.endpoints(name + suffix)
        )
        for name in source.cluster_names
        for suffix, http in protocols.items()
    ]
    if settings.gateway_port is not None:
        address = clusters.socket_address("127.0.0.1", settings.gateway_port)
        made.append(clusters.local_cluster(clusters.GATEWAY, address))
    collector = observing.collector_cluster(settings)
    if collector is not None:
        made.append(collector)
    return made


def _overload(settings: FrontSettings) -> Config:
    """Return what Envoy refuses when its memory or its connections run out."""
    limits = settings.limits
    connections = "envoy.resource_monitors.global_downstream_max_connections"
    return {
        "refresh_interval": "0.05s",  # clients fill the memory in less than 0.25 s
        "resource_monitors": [
            {
                "name": _HEAP,
                "typed_config": clusters.typed(
                    "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                    {"max_heap_size_bytes": limits.memory_bytes},
                ),
            },
            {
                "name": connections,
                "typed_config": clusters.typed(
                    "envoy.extensions.resource_monitors.downstream_connections.v3."
                    "DownstreamConnectionsConfig",
                    {"max_active_downstream_connections": limits.connections},
                ),
            },
        ],
        # Without it, Envoy does not know how much each request over HTTP/2 holds.
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": 20},
        "actions": [
            _overload_action("shrink_heap", {"threshold": {"value": 0.8}}),
            _overload_action("stop_accepting_requests", {"threshold": {"value": 0.9}}),
            _overload_action(
                "reset_high_memory_stream",
                {"scaled": {"scaling_threshold": 0.9, "saturation_threshold": 1.0}},
            ),
        ],
    }


def _overload_action(name: str, trigger: Config) -> Config:
    return {
        "name": f"envoy.overload_actions.{name}",
        "triggers": [{"name": _HEAP, **trigger}],
    }
