"""How replicas are started."""

from __future__ import annotations

import queue
from types import SimpleNamespace

import pytest

from delugeserve.errors import PortError
from delugeserve.serving.fleet import replicas
from delugeserve.serving.fleet.events import Ended, Loaded, Lost
from delugeserve.serving.fleet.watch import Watching
from delugeserve.serving.placement import Placement

HANG = 60  # seconds after which it counts as hung
GPU_0, GPU_1 = Placement("GPU 0", gpu="0"), Placement("GPU 1", gpu="1")


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


def test_replicas_are_spread_and_a_free_placement_is_used_again(monkeypatch):
    used, posted = [], queue.Queue()

    def start(*arguments):
        *_, servers, placement = arguments
        used.append((servers, placement.gpu))
        return SimpleNamespace(stop=lambda **_: None)

    monkeypatch.setattr(replicas, "start_tritonserver", start)
    monkeypatch.setattr(replicas, "wait_until_ready", lambda *_: None)
    settings = replicas.ReplicaSettings(
        None, True, 2, frozenset(), 60.0, Watching(), placements=(GPU_0, GPU_1)
    )
    release = SimpleNamespace(stored=(), place=None)
    fleet = replicas.Replicas(settings, posted.put)
    for number in (1, 2, 3):
        fleet.start(number, release)
        assert isinstance(posted.get(timeout=HANG), Loaded)
    fleet.kill(2)
    assert isinstance(posted.get(timeout=HANG), Ended)
    fleet.start(4, release)
    assert isinstance(posted.get(timeout=HANG), Loaded)
    assert used == [(2, "0"), (2, "1"), (2, "0"), (2, "1")]


def test_servers_on_sockets_of_their_own_share_no_cores():
    sockets = [Placement(f"socket {n}", cores=frozenset({n})) for n in range(2)]
    for active, sharing in ((1, 1), (2, 1), (3, 2)):
        settings = replicas.ReplicaSettings(
            None, True, active, frozenset(), 60.0, Watching(), placements=sockets
        )
        assert settings.sharing == sharing
