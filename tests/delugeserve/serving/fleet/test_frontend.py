"""What the gateway of a fleet is told."""

from __future__ import annotations

import json

from delugeserve.serving.fleet.frontend import Frontend, gateway_limits
from delugeserve.serving.front.settings import Limits, Routing, Upstream
from delugeserve.serving.gateway.settings import GatewayLimits


def test_the_gateways_limits_are_those_of_the_front():
    assert gateway_limits(Limits()) == GatewayLimits()
    limits = gateway_limits(Limits(request_bytes=1000, answer_seconds=7, receive_seconds=3))
    assert (limits.request_bytes, limits.image_bytes) == (1000, 500)
    assert (limits.seconds, limits.body_seconds) == (7, 3)
    large = gateway_limits(Limits(request_bytes=2**30))
    assert large.buffered_bytes > large.request_bytes


def test_the_gateway_is_told_the_active_replicas_unless_there_is_a_canary(tmp_path):
    frontend = Frontend(None, None, None)
    active, standby = Upstream("replica-1", 4001, None), Upstream("replica-2", 4002, None)
    frontend._name_replicas(Routing((active,), (standby,)))  # there is no gateway yet
    frontend._direct = tmp_path / "replicas.json"
    frontend._name_replicas(Routing((active,), (standby,)))
    assert json.loads(frontend._direct.read_text()) == {"replica-1": "127.0.0.1:4001"}
    frontend._name_replicas(Routing((active,), (), (standby,), 0.1))
    assert json.loads(frontend._direct.read_text()) == {}
    frontend._direct = tmp_path / "gone" / "replicas.json"
    frontend._name_replicas(Routing((active,)))
