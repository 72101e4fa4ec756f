"""A real Envoy in front of stand-ins for tritonservers."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import grpc
import pytest
from fake_replica import FakeReplica

from delugeserve.serving import ports
from delugeserve.serving.front.front import Front, start_front
from delugeserve.serving.front.installation import find_envoy
from delugeserve.serving.front.settings import FrontSettings, Routing

INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass
class Setup:
    """A running front with its replicas.

    Attributes:
        front: the front.
        active: its active replica.
        standby: its standby.
    """

    front: Front
    active: FakeReplica
    standby: FakeReplica

    def infer(self, body: bytes = b"", method: str = INFER, **options) -> bytes:
        """Send one gRPC request, on a connection of its own."""
        target = f"127.0.0.1:{self.front.settings.grpc_port}"
        with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
            return channel.unary_unary(method)(body, timeout=60, **options)

    def http(self, method: str, path: str, body: bytes = b"", **headers: str):
        """Send one HTTP request; return its status, headers and body."""
        port = self.front.settings.http_port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with contextlib.closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()


StartFront = Callable[..., Setup]


@pytest.fixture(scope="session")
def envoy():
    return find_envoy()


@pytest.fixture(scope="module")
def start(envoy) -> Iterator[StartFront]:
    """Start a front with an active replica ``a`` and a standby ``b``."""
    with contextlib.ExitStack() as stack:

        def start(**settings) -> Setup:
            active, standby = FakeReplica("a"), FakeReplica("b")
            stack.callback(active.stop)
            stack.callback(standby.stop)
            free = ports.claim("127.0.0.1", {"grpc": 0, "http": 0})
            chosen = replace(
                FrontSettings("127.0.0.1", free["grpc"], free["http"], None), **settings
            )
            routing = Routing((active.upstream,), (standby.upstream,))
            front = start_front(envoy, chosen, routing)
            stack.callback(front.stop, drain=False)
            return Setup(front, active, standby)

        yield start
