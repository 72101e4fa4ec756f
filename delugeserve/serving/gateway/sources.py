"""Where metrics are: what the settings say, and what the supervisor's status file says."""

from __future__ import annotations

from delugeserve.serving.gateway.metrics import Sources
from delugeserve.serving.gateway.settings import GatewaySettings


def find_sources(settings: GatewaySettings) -> Sources:
    """Return the sources of metrics at the moment."""
    return Sources(settings.replicas, settings.envoy)
