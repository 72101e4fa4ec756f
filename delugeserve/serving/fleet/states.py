"""The state of a fleet, as plain values: what runs, what is served, and what happened.

:mod:`~delugeserve.serving.fleet.machine` says how it changes. docs/reliability.md shows
:data:`TRANSITIONS` as a table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class State(str, Enum):
    """What a replica is doing."""

    STARTING = "starting"
    """The process loads its models."""
    PROVING = "proving"
    """All models are loaded; the replica has to give the recorded answers."""
    STANDBY = "standby"
    """Proved; gets requests only if the active replicas fail."""
    ACTIVE = "active"
    """Gets requests."""
    CANARY = "canary"
    """Gets a share of the requests, for a release that is not served to all."""
    DRAINING = "draining"
    """Gets no new requests; finishes those it has."""
    STOPPED = "stopped"
    """The process has ended, or is being killed."""


PROVED = frozenset({State.STANDBY, State.ACTIVE, State.CANARY})
RUNNING = PROVED | {State.STARTING, State.PROVING}

#: Every change of a replica's state, with its cause.
TRANSITIONS: Mapping[tuple[State, State], str] = {
    (State.STARTING, State.PROVING): "Every model has answered a request.",
    (State.STARTING, State.STOPPED): "It failed, or its release is not wanted any more.",
    (State.PROVING, State.STANDBY): "It gave the recorded answers.",
    (State.PROVING, State.STOPPED): "It failed, or its release is not wanted any more.",
    (State.STANDBY, State.ACTIVE): "Its release is served and an active replica is missing.",
    (State.STANDBY, State.CANARY): "Its release gets a share of the requests.",
    (State.STANDBY, State.DRAINING): "It is replaced, or its release is not wanted any more.",
    (State.STANDBY, State.STOPPED): "It died or hung.",
    (State.ACTIVE, State.STANDBY): "It is to be replaced, and a standby takes over.",
    (State.ACTIVE, State.DRAINING): "It is replaced, or another release is served.",
    (State.ACTIVE, State.STOPPED): "It died or hung.",
    (State.CANARY, State.ACTIVE): "Its release is served to all.",
    (State.CANARY, State.STANDBY): "Its release is served to all.",
    (State.CANARY, State.DRAINING): "It is replaced, or the canary has ended.",
    (State.CANARY, State.STOPPED): "It died or hung.",
    (State.DRAINING, State.STOPPED): "It has answered all its requests, or it died.",
}


@dataclass(frozen=True)
class Replica:
    """One server process.

    Attributes:
        number: counts up from 1; no number is used twice.
        release: id of the release it serves.
        state: what it is doing.
        since: when it entered the state, in seconds.
        proved_at: when it was proved, in seconds; None before.
        retiring: why it is to be replaced although it works; empty if it is not.
        drain_after: the route that no longer names it.
        ordered: it has been told to finish its requests and end.
    """

    number: int
    release: str
    state: State
    since: float
    proved_at: float | None = None
    retiring: str = ""
    drain_after: int = 0
    ordered: bool = False

    @property
    def name(self) -> str:
        """Its name in messages, metrics and Envoy's configuration."""
        return f"replica-{self.number}"

    def moved(self, state: State, now: float) -> Replica:
        """Return the replica in another state.

        Raises:
            ValueError: :data:`TRANSITIONS` has no such change.
        """
        if (self.state, state) not in TRANSITIONS:
            raise ValueError(f"{self.name} cannot go from {self.state.value} to {state.value}")
        proved = now if self.state is State.PROVING and state in PROVED else self.proved_at
        return dataclasses.replace(self, state=state, since=now, proved_at=proved)


@dataclass(frozen=True)
class Rules:
    """How many replicas there are, and how failures are answered.

    Attributes:
        active: number of active replicas.
        standby: number of standby replicas.
        first_delay: seconds before the second attempt to replace a replica; the first is made at
            once, and each later one waits twice as long.
        longest_delay: most seconds between two attempts.
        steady: seconds after its proof from which a lost replica counts as an accident, not as a
            failed attempt.
        loop_losses: failed attempts within ``loop_seconds`` that count as a crash loop.
        loop_seconds: see there.
    """

    active: int = 1
    standby: int = 1
    first_delay: float = 0.5
    longest_delay: float = 30.0
    steady: float = 10.0
    loop_losses: int = 5
    loop_seconds: float = 60.0

    @property
    def total(self) -> int:
        """Number of replicas of a release that is served."""
        return self.active + self.standby


@dataclass(frozen=True)
class Canary:
    """A release that gets a share of the requests.

    Attributes:
        release: its id.
        share: fraction of the requests, from 0 to 1.
    """

    release: str
    share: float


@dataclass(frozen=True)
class Rejection:
    """A release that failed, and why."""

    release: str
    reason: str


@dataclass(frozen=True)
class Loss:
    """A failed attempt to run a replica, or a part of the front.

    Attributes:
        at: when, in seconds.
        key: id of the release, or name of the part.
        reason: why.
    """

    at: float
    key: str
    reason: str


@dataclass(frozen=True)
class Backoff:
    """When a release, or a part of the front, may be started again.

    Attributes:
        key: id of the release, or name of the part.
        streak: failed attempts in a row.
        retry_at: earliest time of the next attempt, in seconds.
    """

    key: str
    streak: int = 0
    retry_at: float = 0.0


@dataclass(frozen=True)
class Routes:
    """Which replicas get requests.

    Attributes:
        active: numbers of the active replicas.
        standby: numbers of those that step in.
        canary: numbers of the canary's replicas.
        share: the canary's fraction of the requests.
    """

    active: tuple[int, ...] = ()
    standby: tuple[int, ...] = ()
    canary: tuple[int, ...] = ()
    share: float = 0.0


class Phase(str, Enum):
    """What a fleet as a whole is doing."""

    RUNNING = "running"
    STOPPING = "stopping"
    """The front finishes its requests, then the replicas do."""
    ENDED = "ended"


#: The parts in front of the replicas, which are started again when they end.
FRONT, GATEWAY = "front", "gateway"


@dataclass(frozen=True)
class Part:
    """Envoy, or the gateway.

    Attributes:
        name: ``front`` or ``gateway``.
        running: False before its first start, and between its end and its next start.
        starting: it has been told to start.
        since: when it was started, in seconds.
        starts: how often it was started.
    """

    name: str
    running: bool = False
    starting: bool = False
    since: float = 0.0
    starts: int = 0


@dataclass(frozen=True)
class Fleet:
    """Everything the supervisor knows.

    Attributes:
        rules: how many replicas, and how failures are answered.
        seed: a number from 0 to 1 that spreads the delays of different fleets.
        phase: running, stopping or ended.
        current: id of the release that is served; None before the first.
        pending: id of the release that shall replace it.
        canary: the release that gets a share of the requests.
        rejected: the last release that failed.
        canary_rejected: the last canary that failed.
        replicas: every process.
        parts: Envoy and the gateway.
        next_number: number of the next replica.
        routes: what was last asked of the front.
        route_number: how often ``routes`` changed.
        routed: the newest route that the front has applied.
        losses: failed attempts of the last minute.
        backoffs: by release and part.
        looping: keys with a crash loop.
        fault: why the fleet gave up; empty if it did not.
    """

    rules: Rules = Rules()
    seed: float = 0.0
    phase: Phase = Phase.RUNNING
    current: str | None = None
    pending: str | None = None
    canary: Canary | None = None
    rejected: Rejection | None = None
    canary_rejected: Rejection | None = None
    replicas: tuple[Replica, ...] = ()
    parts: tuple[Part, ...] = ()
    next_number: int = 1
    routes: Routes = Routes()
    route_number: int = 0
    routed: int = 0
    losses: tuple[Loss, ...] = ()
    backoffs: tuple[Backoff, ...] = ()
    looping: frozenset[str] = frozenset()
    fault: str = ""

    def find(self, number: int) -> Replica | None:
        """Return a replica; None if its process has ended."""
        return next((one for one in self.replicas if one.number == number), None)

    def part(self, name: str) -> Part | None:
        """Return a part of the front; None if the fleet has no such part."""
        return next((one for one in self.parts if one.name == name), None)

    def backoff(self, key: str) -> Backoff:
        """Return when a release or a part may be started again."""
        return next((one for one in self.backoffs if one.key == key), Backoff(key))

    def serving(self, release: str | None) -> list[Replica]:
        """Return the proved replicas of a release."""
        return [one for one in self.replicas if one.release == release and one.state in PROVED]

    @property
    def full_strength(self) -> bool:
        """Whether every replica and part runs that should, and the front knows of it."""
        ready = [one for one in self.serving(self.current) if not one.retiring]
        return (
            self.phase is Phase.RUNNING
            and self.pending is None
            and len(ready) >= self.rules.total
            and self.routed == self.route_number
            and all(part.running for part in self.parts)
        )
