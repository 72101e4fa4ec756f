"""Where metrics are, and what the supervisor tells of itself: read from its status file.

The file is read at each scrape, since replicas come and go. A field that is missing or of another
type costs the metrics that need it, and no others. :mod:`delugeserve.serving.fleet.status` writes
the file, and starts the gateway; so nothing of it is imported here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from delugeserve.serving.gateway.exposition import Family, write_labels
from delugeserve.serving.gateway.metrics import Sources
from delugeserve.serving.gateway.settings import GatewaySettings

#: States that a replica can have, as in delugeserve.serving.fleet.states.
REPLICA_STATES = ("starting", "proving", "standby", "active", "canary", "draining")
#: States that a server can have, as in delugeserve.serving.fleet.status.
SERVER_STATES = ("starting", "serving", "degraded", "changing", "stopping")

_FRESH = 15.0  # seconds after which a supervisor that writes each second counts as gone

_Samples = Iterable[tuple[Mapping[str, str], float]]


def is_stopping(settings: GatewaySettings) -> bool:
    """Return whether the supervisor says that the server is about to end."""
    return settings.status is not None and _read(Path(settings.status)).get("state") == "stopping"


def find_sources(settings: GatewaySettings) -> Sources:
    """Return where metrics are now: as the supervisor says, else as the settings say."""
    if settings.status is None:
        return Sources(settings.replicas, settings.envoy)
    status = _read(Path(settings.status))
    replicas = {
        str(one.get("name")): str(one["metrics"])
        for one in _objects(status, "replicas")
        if one.get("metrics")
    }
    envoy = status.get("envoy_admin")
    return Sources(
        {**settings.replicas, **replicas},
        f"http://{envoy}/stats/prometheus" if envoy else settings.envoy,
        tuple(_families(status)),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        status = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def _families(status: Mapping[str, Any]) -> Iterable[Family]:
    yield _gauge(
        "delugeserve_supervisor_up",
        "1 if the supervisor has written its status in the last seconds, 0 if not.",
        [({}, float(_is_fresh(status.get("updated"))))],
    )
    if not status:
        return
    state = status.get("state")
    yield _gauge(
        "delugeserve_server_state",
        "1 for the state that the server is in, 0 for all others.",
        [({"state": name}, float(name == state)) for name in SERVER_STATES],
    )
    replicas = _objects(status, "replicas")
    counts = Counter(str(one.get("state")) for one in replicas)
    yield _gauge(
        "delugeserve_replicas",
        "Number of replicas by state.",
        [({"state": name}, float(counts[name])) for name in REPLICA_STATES],
    )
    yield _gauge(
        "delugeserve_replica_info",
        "1 for each replica, with its state and its release.",
        [
            ({"replica": _text(one, "name"), **{key: _text(one, key) for key in _INFO}}, 1.0)
            for one in replicas
        ],
    )
    yield _gauge(
        "delugeserve_replica_memory_bytes",
        "Memory of a replica's processes.",
        [
            ({"replica": _text(one, "name")}, float(one["memory_bytes"]))
            for one in replicas
            if _is_number(one.get("memory_bytes"))
        ],
    )
    yield _gauge(
        "delugeserve_served_version",
        "The version of each model that is served.",
        [
            ({"model": str(model)}, float(version))
            for model, version in _mapping(_mapping(status, "release"), "versions").items()
            if _is_number(version)
        ],
    )
    share: Any = _mapping(status, "canary").get("share")
    yield _gauge(
        "delugeserve_canary_share",
        "Fraction of the requests that a canary gets; 0 without a canary.",
        [({}, float(share) if _is_number(share) else 0.0)],
    )
    rejected = bool(status.get("rejected")) or bool(status.get("canary_rejected"))
    yield _gauge(
        "delugeserve_release_rejected",
        "1 if what the repository asks for failed its proof, 0 if not.",
        [({}, float(rejected))],
    )
    loops = status.get("crash_loops")
    yield _gauge(
        "delugeserve_crash_loops",
        "Number of crash loops now.",
        [({}, float(len(loops)) if isinstance(loops, list) else 0.0)],
    )
    yield from _parts(_objects(status, "parts"))
    events = _mapping(status, "counters")
    yield _family(
        "delugeserve_events_total",
        "counter",
        "Events of the supervisor since its start, by kind.",
        [({"event": str(k)}, float(count)) for k, count in events.items() if _is_number(count)],
    )


_INFO = ("state", "release")


def _parts(parts: list[Mapping[str, Any]]) -> Iterable[Family]:
    yield _gauge(
        "delugeserve_part_running",
        "1 if the part in front of the replicas runs, 0 if not.",
        [({"part": _text(one, "name")}, float(bool(one.get("running")))) for one in parts],
    )
    yield _family(
        "delugeserve_part_starts_total",
        "counter",
        "Starts of the part since the supervisor's start.",
        [
            ({"part": _text(one, "name")}, float(one["starts"]))
            for one in parts
            if _is_number(one.get("starts"))
        ],
    )


def _is_fresh(updated: object) -> bool:
    try:
        age = datetime.now(timezone.utc) - datetime.fromisoformat(str(updated))
    except (TypeError, ValueError):  # not a time, or one without a time zone
        return False
    return age.total_seconds() < _FRESH


def _gauge(name: str, description: str, samples: _Samples) -> Family:
    return _family(name, "gauge", description, samples)


def _family(name: str, kind: str, description: str, samples: _Samples) -> Family:
    lines = []
    for labels, value in samples:
        text = write_labels(labels)
        lines.append(f"{name}{{{text}}} {value!r}" if text else f"{name} {value!r}")
    return Family(name, kind, description, lines)


def _mapping(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    item = value.get(key)
    return item if isinstance(item, dict) else {}


def _objects(value: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    items = value.get(key)
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _text(value: Mapping[str, Any], key: str) -> str:
    return str(value.get(key) or "")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
