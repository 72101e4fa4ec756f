"""What a supervisor says about itself in its status file."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone

from delugeserve.serving.fleet.journal import Journal, now_text
from delugeserve.serving.fleet.release import Release
from delugeserve.serving.fleet.replicas import Replicas
from delugeserve.serving.fleet.states import Fleet, Phase, Rejection, Replica
from delugeserve.serving.fleet.status import (
    CanaryStatus,
    PartStatus,
    RejectedStatus,
    ReleaseStatus,
    ReplicaStatus,
    ServerStatus,
    Traffic,
)


def describe(release: Release) -> str:
    """Return a release's models and versions, such as ``delugenet38 version 2``."""
    listed = ", ".join(f"{name} version {number}" for name, number in release.versions.items())
    return f"{listed} ({release.id})"


def status(
    base: ServerStatus,
    fleet: Fleet,
    releases: Mapping[str, Release],
    replicas: Replicas,
    journal: Journal,
    envoy_admin: str | None,
    traffic: tuple[Traffic, Traffic] | None = None,
) -> ServerStatus:
    """Return the status of a fleet now.

    Args:
        base: what does not change: process, repository and addresses.
        fleet: the fleet.
        releases: by id.
        replicas: its processes.
        journal: what happened to it.
        envoy_admin: ``host:port`` of Envoy's statistics; None while there is no Envoy.
        traffic: requests of the canary, and of the others; None without a canary.
    """

    def release(key: str | None) -> ReleaseStatus | None:
        found = releases.get(key or "")
        return ReleaseStatus(found.id, found.versions) if found else None

    def rejected(rejection: Rejection | None) -> RejectedStatus | None:
        what = release(rejection.release) if rejection else None
        return RejectedStatus(what, rejection.reason) if rejection and what else None

    canary = release(fleet.canary.release) if fleet.canary else None
    current = release(fleet.current)
    return dataclasses.replace(
        base,
        state=state_of(fleet),
        updated=now_text(),
        models=tuple(current.versions) if current else (),
        release=current,
        pending=release(fleet.pending),
        rejected=rejected(fleet.rejected),
        canary=CanaryStatus(canary, fleet.canary.share, *(traffic or (None, None)))
        if fleet.canary and canary
        else None,
        canary_rejected=rejected(fleet.canary_rejected),
        routed=fleet.routed == fleet.route_number,
        replicas=tuple(_replica(replicas, one) for one in fleet.replicas),
        parts=tuple(PartStatus(one.name, one.running, one.starts) for one in fleet.parts),
        crash_loops=tuple(
            next(loss.reason for loss in reversed(fleet.losses) if loss.key == key)
            for key in sorted(fleet.looping)
        ),
        counters=dict(journal.counters),
        events=journal.recent[-20:],
        envoy_admin=envoy_admin,
    )


def state_of(fleet: Fleet) -> str:
    """Return one word for the state of a fleet."""
    if fleet.phase is not Phase.RUNNING:
        return "stopping"
    if fleet.current is None:
        return "starting"
    if fleet.pending is not None:
        return "changing"
    return "serving" if fleet.full_strength else "degraded"


def _replica(replicas: Replicas, replica: Replica) -> ReplicaStatus:
    endpoints = replicas.endpoints(replica.number)
    elapsed = timedelta(seconds=time.monotonic() - replica.since)
    since = datetime.now(timezone.utc) - elapsed

    def address(port: int | None) -> str | None:
        return f"{endpoints.address}:{port}" if endpoints and port else None

    metrics = address(endpoints.metrics) if endpoints else None
    return ReplicaStatus(
        name=replica.name,
        state=replica.state.value,
        release=replica.release,
        since=since.isoformat(timespec="milliseconds"),
        pid=replicas.pid(replica.number),
        grpc=address(endpoints.grpc) if endpoints else None,
        http=address(endpoints.http) if endpoints else None,
        metrics=f"http://{metrics}/metrics" if metrics else None,
        memory_bytes=replicas.memory(replica.number),
        retiring=replica.retiring,
    )
