"""What is asked of a server for one image, and what it answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from delugeserve_client.results import Prediction


@dataclass(frozen=True)
class Call:
    """What goes with a request to the server.

    Attributes:
        seconds: time that the server has.
        request_id: id of the request, for logs.
        headers: gRPC metadata, for traces.
        direct: whether a replica may be asked without the proxy.
        started: when the time began, in seconds of the monotonic clock.
    """

    seconds: float
    request_id: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    direct: bool = True
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.started + self.seconds - time.monotonic()


@dataclass(frozen=True)
class Answer:
    """The classes of one image.

    Attributes:
        model: the model's name.
        version: the version that answered.
        predictions: the most probable classes, in descending order.
    """

    model: str
    version: str
    predictions: tuple[Prediction, ...]
