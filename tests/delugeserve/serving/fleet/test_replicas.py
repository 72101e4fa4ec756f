"""How replicas are started."""

from __future__ import annotations

import queue
from types import SimpleNamespace

import pytest

from delugeserve.errors import PortError
from delugeserve.serving.fleet import replicas
from delugeserve.serving.fleet.events import Loaded, Lost
from delugeserve.serving.fleet.watch import Watching

HANG = 60  # seconds after which it counts as hung


@pytest.mark.parametrize(("taken", "event"), [(1, Loaded), (4, Loaded), (5, Lost)])
def test_a_port_that_is_taken_in_the_meantime_is_replaced(monkeypatch, taken, event):
    started, stopped, posted = [], [], queue.Queue()

    def start(_installation, _stored, endpoints, *_):
        started.append(endpoints.grpc)
        return SimpleNamespace(stop=lambda **_: stopped.append(endpoints.grpc))

    def wait(*_):
        if len(started) <= taken:
            raise PortError("Port 1 for gRPC is already in use.", 1, "grpc")

    monkeypatch.setattr(replicas, "start_tritonserver", start)
    monkeypatch.setattr(replicas, "wait_until_ready", wait)
    settings = replicas.ReplicaSettings(None, True, 1, frozenset(), 60.0, Watching())
    release = SimpleNamespace(stored=(), place=None)
    replicas.Replicas(settings, posted.put).start(1, release)
    assert isinstance(posted.get(timeout=HANG), event)
    assert len(started) == min(taken + 1, 5)
    assert stopped == started[:-1]
