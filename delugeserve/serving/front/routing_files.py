"""The files that tell a running Envoy where to send requests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from delugeserve.serving.front import clusters, routes
from delugeserve.serving.front.clusters import CANARY, HTTP_SUFFIX, REPLICAS, Config
from delugeserve.serving.front.config import FileRouting
from delugeserve.serving.front.settings import FrontSettings, Upstream
from delugeserve.system.files import atomic_write

_ENDPOINTS = "envoy.config.endpoint.v3.ClusterLoadAssignment"
_ROUTES = "envoy.config.route.v3.RouteConfiguration"


@dataclass(frozen=True)
class Assignment:
    """The replicas of one cluster.

    Attributes:
        ranks: replicas by priority; each rank gets requests only if those before are unhealthy.
        idle: replicas that get no requests, but whose health is checked or whose requests in
            flight are counted.
    """

    ranks: Sequence[Sequence[Upstream]]
    idle: Sequence[Upstream] = field(default=())


class RoutingFiles:
    """Writes the files of a :class:`FileRouting`, each by an atomic rename.

    Args:
        folder: the folder of the files.
        settings: the front's settings.
    """

    def __init__(self, folder: Path, settings: FrontSettings) -> None:
        self.source = FileRouting(folder)
        self._folder = folder
        self._settings = settings
        self._generation = 0
        self._versions: dict[str, str] = {}

    @property
    def versions(self) -> dict[str, str]:
        """The version of each file, by the prefix of Envoy's statistics for it."""
        return dict(self._versions)

    def write_endpoints(self, replicas: Assignment, canary: Assignment) -> None:
        """Write the endpoints of all clusters, for gRPC and HTTP."""
        http = self._settings.http_port is not None
        for name, assignment in ((REPLICAS, replicas), (CANARY, canary)):
            self._write_cluster(name, assignment, http=False)
            if http:
                self._write_cluster(name + HTTP_SUFFIX, assignment, http=True)

    def write_routes(self, canary_share: float) -> None:
        """Write the routes of all listeners."""
        names = [routes.GRPC, routes.INTERNAL]
        if self._settings.http_port is not None:
            names.append(routes.HTTP)
        for name in names:
            found = routes.route_configuration(name, self._settings, canary_share)
            self._write(f"routes-{name}", f"http.{name}.rds.{name}", _ROUTES, found)

    def _write_cluster(self, name: str, assignment: Assignment, *, http: bool) -> None:
        ranks = [list(rank) for rank in assignment.ranks if rank]
        localities = [
            _locality(priority, rank, http=http, draining=False)
            for priority, rank in enumerate(ranks)
        ]
        if assignment.idle:
            localities.append(_locality(len(ranks), assignment.idle, http=http, draining=True))
        message = {
            "cluster_name": name,
            "endpoints": [locality for locality in localities if locality["lb_endpoints"]],
        }
        self._write(f"endpoints-{name}", f"cluster.{name}", _ENDPOINTS, message)

    def _write(self, name: str, statistics: str, message: str, fields: Config) -> None:
        self._generation += 1
        version = str(self._generation)
        with atomic_write(self._folder / f"{name}.json", mark="next") as path:
            path.write_text(
                json.dumps(
                    {"version_info": version, "resources": [clusters.typed(message, fields)]}
                ),
                encoding="utf-8",
            )
        self._versions[statistics] = version


def _locality(
    priority: int, upstreams: Sequence[Upstream], *, http: bool, draining: bool
) -> Config:
    ports = [upstream.http_port if http else upstream.grpc_port for upstream in upstreams]
    return {
        "priority": priority,
        "lb_endpoints": [
            clusters.endpoint(port, draining=draining) for port in ports if port is not None
        ],
    }
