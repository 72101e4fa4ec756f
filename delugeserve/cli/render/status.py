"""The report of ``delugeserve status``."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from rich.markup import escape

from delugeserve.cli.render.console import out, print_facts, print_table

if TYPE_CHECKING:
    from delugeserve.serving.fleet.status import (
        CanaryStatus,
        RejectedStatus,
        ReleaseStatus,
        ServerStatus,
        Traffic,
    )

_EVENTS = 8


def print_status(server: ServerStatus) -> None:
    """Print what one server is doing."""
    versions = {
        one.id: _versions(one)
        for one in (server.release, server.pending, server.canary and server.canary.release)
        if one
    }
    print_facts(
        {
            "server": f"{server.state}, process {server.pid}, since {_age(server.started)}",
            "repository": server.repository,
            "gRPC": server.grpc,
            "HTTP": server.http or "off",
            "metrics": server.metrics or "off",
            "serves": _versions(server.release),
            "starts": _versions(server.pending),
            "canary": _canary(server.canary),
            "rejected": _rejected(server.rejected) or _rejected(server.canary_rejected),
            "crash loop": " ".join(server.crash_loops),
            "front": ", ".join(
                f"{part.name} {'running' if part.running else 'down'}"
                + (f" (started {part.starts} times)" if part.starts > 1 else "")
                for part in server.parts
            ),
        }
    )
    print_table(
        ("replica", "state", "serves", "since", "pid", "memory"),
        [
            (
                one.name,
                escape(one.state + (" (to be replaced)" if one.retiring else "")),
                escape(versions.get(one.release, one.release)),
                _age(one.since),
                str(one.pid or ""),
                f"{one.memory_bytes / 2**20:.0f} MiB" if one.memory_bytes else "",
            )
            for one in server.replicas
        ],
        texts=3,
    )
    if server.canary and server.canary.traffic and server.canary.others:
        _print_traffic(server.canary.traffic, server.canary.others)
    for event in server.events[-_EVENTS:]:
        out.print(f"{_clock(event.time)} {event.message}", markup=False)


def _print_traffic(canary: Traffic, others: Traffic) -> None:
    print_table(
        ("requests", "number", "failed", "p50 ms", "p99 ms"),
        [
            (
                name,
                f"{traffic.requests:,}",
                f"{traffic.errors / traffic.requests:.2%}" if traffic.requests else "",
                _milliseconds(traffic.p50_ms),
                _milliseconds(traffic.p99_ms),
            )
            for name, traffic in (("canary", canary), ("others", others))
        ],
    )


def _canary(canary: CanaryStatus | None) -> str:
    return f"{_versions(canary.release)}, {canary.share:.1%} of the requests" if canary else ""


def _rejected(rejected: RejectedStatus | None) -> str:
    return f"{_versions(rejected.release)}: {rejected.reason}" if rejected else ""


def _versions(release: ReleaseStatus | None) -> str:
    if release is None:
        return ""
    return ", ".join(f"{model} version {number}" for model, number in release.versions.items())


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _age(time: str) -> str:
    seconds = (datetime.now(timezone.utc) - datetime.fromisoformat(time)).total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _clock(time: str) -> str:
    return datetime.fromisoformat(time).astimezone().strftime("%H:%M:%S")
