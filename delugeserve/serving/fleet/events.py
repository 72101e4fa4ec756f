"""What can happen to a fleet, and what the supervisor is told to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from delugeserve.serving.fleet.states import Canary, Routes


@dataclass(frozen=True)
class Wanted:
    """The repository asks for a release.

    Attributes:
        release: its id.
        canary: the release that shall get a share of the requests; None for none.
        again: try releases again that failed.
    """

    release: str
    canary: Canary | None = None
    again: bool = False


@dataclass(frozen=True)
class Loaded:
    """Every model of a replica has answered a request."""

    number: int


@dataclass(frozen=True)
class Proved:
    """A replica gave the recorded answers."""

    number: int


@dataclass(frozen=True)
class Lost:
    """A replica failed its start or its proof, died or hung."""

    number: int
    reason: str


@dataclass(frozen=True)
class Outgrown:
    """A replica works, but has to be replaced: its memory grew beyond the limit."""

    number: int
    reason: str


@dataclass(frozen=True)
class Ended:
    """A replica's process is gone."""

    number: int


@dataclass(frozen=True)
class Routed:
    """The front has applied a route."""

    number: int


@dataclass(frozen=True)
class PartLost:
    """Envoy or the gateway has ended, or could not be started."""

    name: str
    reason: str


@dataclass(frozen=True)
class PartStarted:
    """Envoy or the gateway runs.

    Attributes:
        name: which.
        route: the route that Envoy was started with.
    """

    name: str
    route: int = 0


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True)
class StopRequested:
    """The fleet shall end."""


@dataclass(frozen=True)
class FrontDrained:
    """The front has answered every request that it had accepted, and has ended."""


Event = (
    Wanted
    | Loaded
    | Proved
    | Lost
    | Outgrown
    | Ended
    | Routed
    | PartLost
    | PartStarted
    | Tick
    | StopRequested
    | FrontDrained
)


@dataclass(frozen=True)
class Start:
    """Start a replica, and wait until its models are loaded."""

    number: int
    release: str


@dataclass(frozen=True)
class Prove:
    """Compare a replica's answers with the recorded ones."""

    number: int


@dataclass(frozen=True)
class Route:
    """Let the front send requests by these routes."""

    routes: Routes
    number: int


@dataclass(frozen=True)
class Drain:
    """Wait until a replica has no requests left, and end it."""

    number: int


@dataclass(frozen=True)
class Kill:
    """End a replica at once."""

    number: int


@dataclass(frozen=True)
class StartPart:
    """Start Envoy or the gateway again."""

    name: str


@dataclass(frozen=True)
class DrainFront:
    """Accept nothing more, answer what was accepted, and end the front."""


Action = Start | Prove | Route | Drain | Kill | StartPart | DrainFront
