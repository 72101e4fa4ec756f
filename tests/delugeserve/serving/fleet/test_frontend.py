"""What the gateway of a fleet is told."""

from __future__ import annotations

from delugeserve.serving.fleet.frontend import gateway_limits
from delugeserve.serving.front.settings import Limits
from delugeserve.serving.gateway.settings import GatewayLimits


def test_the_gateways_limits_are_those_of_the_front():
    assert gateway_limits(Limits()) == GatewayLimits()
    limits = gateway_limits(Limits(request_bytes=1000, answer_seconds=7, receive_seconds=3))
    assert (limits.request_bytes, limits.image_bytes) == (1000, 500)
    assert (limits.seconds, limits.body_seconds) == (7, 3)
    large = gateway_limits(Limits(request_bytes=2**30))
    assert large.buffered_bytes > large.request_bytes
