"""Settings of the gateway, and the JSON file that holds them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from delugeserve.artifacts.typed_json import from_json, to_json
from delugeserve.errors import UsageError
from delugeserve.system.files import atomic_write

MOST_HEADER_BYTES = 64 * 1024
"""Size of all headers of a request."""

_MIB = 2**20


@dataclass(frozen=True)
class GatewayLimits:
    """What the gateway refuses, to protect itself and the servers behind it.

    Attributes:
        image_bytes: size of one encoded image.
        request_bytes: size of a request's body.
        images: number of images in a request.
        requests: number of requests to ``/classify`` at once.
        buffered_bytes: size of all bodies held at once.
        body_seconds: time in which a request's body must arrive.
        seconds: time that the server has for an answer.
    """

    image_bytes: int = 32 * _MIB
    request_bytes: int = 64 * _MIB
    images: int = 32
    requests: int = 256
    buffered_bytes: int = 512 * _MIB
    body_seconds: float = 30.0
    seconds: float = 60.0

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            if getattr(self, item.name) <= 0:
                raise UsageError(
                    f"The gateway's limit '{item.name}' is {getattr(self, item.name)}.",
                    "Use a number above 0.",
                )


@dataclass(frozen=True)
class GatewaySettings:
    """Everything the gateway is told at its start.

    Attributes:
        grpc: ``host:port`` of the server's gRPC endpoint.
        port: port to listen on.
        host: address to listen on.
        metrics_port: port of ``/metrics``; None for no metrics.
        metrics_host: address of ``/metrics``.
        replicas: URL of the metrics of each server, by the server's name.
        direct: file that names the replicas that may be asked without the proxy, a JSON object of
            ``host:port`` by name; they answer for the same release as it does.
        envoy: URL of Envoy's page of metrics.
        status: the supervisor's status file; what it says of replicas and Envoy counts more.
        limits: what is refused.
        access_log: whether each request is logged, as a line of JSON on standard output.
    """

    grpc: str
    port: int
    host: str = "127.0.0.1"
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    replicas: Mapping[str, str] = field(default_factory=dict)
    direct: str | None = None
    envoy: str | None = None
    status: str | None = None
    limits: GatewayLimits = field(default_factory=GatewayLimits)
    access_log: bool = True

    def write(self, path: Path) -> None:
        """Write the settings to a JSON file, atomically."""
        with atomic_write(path) as beside:
            beside.write_text(json.dumps(to_json(self), indent=2) + "\n", encoding="utf-8")


def read_settings(path: Path) -> GatewaySettings:
    """Read the settings from a JSON file.

    Raises:
        UsageError: the file cannot be read, or has a field that is unknown, missing or of another
            type.
    """
    try:
        return from_json(GatewaySettings, json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(
            f"The gateway's settings '{path}' cannot be read: {error.strerror}.",
            "Give the path of a readable JSON file.",
        ) from error
    except ValueError as error:
        raise UsageError(
            f"The gateway's settings '{path}' are not valid: {error}.",
            "Correct the file, or let 'delugeserve serve' write it.",
        ) from error
