"""The state machine of a fleet: pure, without processes, files or clocks.

:func:`step` applies what happened, and then brings the fleet closer to what is wanted. Whatever the
cause (a crash, a hang, a new version, a rollback, a changed configuration, a memory limit), the
steps are the same: start a replica, prove it, route requests to it, drain and stop the old one.
"""

from __future__ import annotations

import dataclasses

from delugeserve.serving.fleet import backoff
from delugeserve.serving.fleet.events import (
    Action,
    Drain,
    DrainFront,
    Ended,
    Event,
    FrontDrained,
    Kill,
    Loaded,
    Lost,
    Outgrown,
    PartLost,
    PartStarted,
    Prove,
    Proved,
    Route,
    Routed,
    Start,
    StartPart,
    StopRequested,
    Tick,
    Wanted,
)
from delugeserve.serving.fleet.states import (
    FRONT,
    PROVED,
    RUNNING,
    Fleet,
    Part,
    Phase,
    Rejection,
    Replica,
    Routes,
    State,
)

_UNPROVED = frozenset({State.STARTING, State.PROVING})


def step(fleet: Fleet, event: Event, now: float) -> tuple[Fleet, tuple[Action, ...]]:
    """Return the fleet after an event, and what to do.

    Args:
        fleet: its state.
        event: what happened.
        now: seconds of a clock that never goes back.
    """
    if fleet.phase is Phase.ENDED:
        return fleet, ()
    fleet, actions = _apply(fleet, event, now)
    if fleet.phase is Phase.STOPPING:
        if not fleet.replicas and fleet.part(FRONT) is None:
            fleet = dataclasses.replace(fleet, phase=Phase.ENDED)
        return fleet, tuple(actions)
    # The route comes first: a front starts with the newest, and refuses no request for lack of one.
    for converge in (_drop_unwanted, _assign, _fill, _route, _start_parts, _drain):
        fleet, more = converge(fleet, now)
        actions += more
    return fleet, tuple(actions)


# What happened.


def _apply(fleet: Fleet, event: Event, now: float) -> tuple[Fleet, list[Action]]:
    match event:
        case Wanted():
            return _want(fleet, event), []
        case Loaded(number) | Proved(number):
            return _advance(fleet, event, number, now)
        case Lost(number, reason):
            return _lose(fleet, number, reason, now)
        case Outgrown(number, reason):
            replica = fleet.find(number)
            if replica and replica.state in PROVED and not replica.retiring:
                fleet = _put(fleet, dataclasses.replace(replica, retiring=reason))
            return fleet, []
        case Ended(number):
            kept = tuple(one for one in fleet.replicas if one.number != number)
            return dataclasses.replace(fleet, replicas=kept), []
        case Routed(number):
            return dataclasses.replace(fleet, routed=max(fleet.routed, number)), []
        case PartLost(name, reason):
            return _lose_part(fleet, name, reason, now)
        case Tick():
            return backoff.prune(fleet, now), []
        case PartStarted():
            return _part_started(fleet, event, now), []
        case StopRequested():
            return _stop(fleet)
        case FrontDrained():
            return _wind_down(fleet, now)
    return fleet, []


def _want(fleet: Fleet, wanted: Wanted) -> Fleet:
    if wanted.again:
        fleet = dataclasses.replace(fleet, rejected=None, canary_rejected=None)
    failed = fleet.rejected.release if fleet.rejected else None
    pending = wanted.release if wanted.release not in (fleet.current, failed) else None
    if wanted.release == fleet.current:  # back to what is served: the failure is history
        fleet = dataclasses.replace(fleet, rejected=None)
    canary = wanted.canary
    if canary is None:
        fleet = dataclasses.replace(fleet, canary_rejected=None)
    elif fleet.canary_rejected and fleet.canary_rejected.release == canary.release:
        canary = None
    return dataclasses.replace(fleet, pending=pending, canary=canary)


def _advance(
    fleet: Fleet, event: Loaded | Proved, number: int, now: float
) -> tuple[Fleet, list[Action]]:
    replica = fleet.find(number)
    if fleet.phase is not Phase.RUNNING:
        return fleet, []
    if isinstance(event, Loaded):
        if replica and replica.state is State.STARTING:
            return _put(fleet, replica.moved(State.PROVING, now)), [Prove(number)]
    elif replica and replica.state is State.PROVING:
        return _put(fleet, replica.moved(State.STANDBY, now)), []
    return fleet, []


def _lose(fleet: Fleet, number: int, reason: str, now: float) -> tuple[Fleet, list[Action]]:
    replica = fleet.find(number)
    if replica is None or replica.state is State.STOPPED:
        return fleet, []
    fleet = _put(fleet, replica.moved(State.STOPPED, now))
    actions: list[Action] = [Kill(number)]
    if replica.state is State.DRAINING or fleet.phase is not Phase.RUNNING:
        return fleet, actions
    release = replica.release
    attempt = replica.proved_at is None or now - replica.proved_at < fleet.rules.steady
    fleet = backoff.count(fleet, release, reason, now, attempt=attempt)
    looping = release in fleet.looping
    if release != fleet.current:
        if replica.proved_at is None or looping:
            return _reject(fleet, release, reason, actions)
    elif looping and not fleet.serving(release) and fleet.pending is None:
        return _give_up(fleet, backoff.describe_loop(fleet, "The servers", reason), actions)
    return fleet, actions


def _reject(
    fleet: Fleet, release: str, reason: str, actions: list[Action]
) -> tuple[Fleet, list[Action]]:
    """Keep what is served, and do not try the release again until the repository changes."""
    fleet = backoff.forget(fleet, release)
    if fleet.pending == release:
        if fleet.current is None:
            return _give_up(fleet, reason, actions)
        fleet = dataclasses.replace(fleet, pending=None, rejected=Rejection(release, reason))
    if fleet.canary and fleet.canary.release == release:
        fleet = dataclasses.replace(fleet, canary=None, canary_rejected=Rejection(release, reason))
    return fleet, actions


def _lose_part(fleet: Fleet, name: str, reason: str, now: float) -> tuple[Fleet, list[Action]]:
    part = fleet.part(name)
    if part is None or fleet.phase is not Phase.RUNNING:
        return fleet, []
    attempt = not part.running or now - part.since < fleet.rules.steady
    fleet = _put_part(fleet, dataclasses.replace(part, running=False, starting=False))
    fleet = backoff.count(fleet, name, reason, now, attempt=attempt)
    if part.starts == 0:
        return _give_up(fleet, reason, [])
    if name == FRONT and name in fleet.looping:
        return _give_up(fleet, backoff.describe_loop(fleet, "The front", reason), [])
    return fleet, []


def _part_started(fleet: Fleet, event: PartStarted, now: float) -> Fleet:
    part = fleet.part(event.name)
    if part is None:
        return fleet
    part = Part(part.name, running=True, since=now, starts=part.starts + 1)
    fleet = _put_part(fleet, part)
    return dataclasses.replace(fleet, routed=max(fleet.routed, event.route))


def _give_up(fleet: Fleet, fault: str, actions: list[Action]) -> tuple[Fleet, list[Action]]:
    fleet, more = _stop(dataclasses.replace(fleet, fault=fault))
    return fleet, actions + more


def _stop(fleet: Fleet) -> tuple[Fleet, list[Action]]:
    if fleet.phase is not Phase.RUNNING:
        return fleet, []
    return dataclasses.replace(fleet, phase=Phase.STOPPING), [DrainFront()]


def _wind_down(fleet: Fleet, now: float) -> tuple[Fleet, list[Action]]:
    """End all replicas, once nothing in front of them can send requests."""
    if fleet.phase is not Phase.STOPPING:
        return fleet, []
    actions: list[Action] = []
    fleet = dataclasses.replace(fleet, parts=())
    for replica in fleet.replicas:
        if replica.state in _UNPROVED:
            fleet = _put(fleet, replica.moved(State.STOPPED, now))
            actions.append(Kill(replica.number))
        elif replica.state in PROVED or (replica.state is State.DRAINING and not replica.ordered):
            if replica.state in PROVED:
                replica = replica.moved(State.DRAINING, now)
            fleet = _put(fleet, dataclasses.replace(replica, ordered=True))
            actions.append(Drain(replica.number))
    return fleet, actions


# What follows from it.


def _drop_unwanted(fleet: Fleet, now: float) -> tuple[Fleet, list[Action]]:
    """Kill what is not proved yet and not wanted any more."""
    wanted = {fleet.current, fleet.pending, fleet.canary.release if fleet.canary else None}
    actions: list[Action] = []
    for replica in fleet.replicas:
        if replica.state in _UNPROVED and replica.release not in wanted:
            fleet = _put(fleet, replica.moved(State.STOPPED, now))
            actions.append(Kill(replica.number))
    return fleet, actions


def _assign(fleet: Fleet, now: float) -> tuple[Fleet, list[Action]]:
    """Switch to a release that is ready, and give every proved replica its role."""
    if fleet.pending is not None and _ready_to_switch(fleet):
        if fleet.current is not None:
            fleet = backoff.forget(fleet, fleet.current)
        fleet = dataclasses.replace(fleet, current=fleet.pending, pending=None, rejected=None)
    canary = fleet.canary.release if fleet.canary else None
    ranked = sorted(fleet.serving(fleet.current), key=_rank)
    steady = [one for one in ranked if not one.retiring]
    # One that is to be replaced goes on until there is another.
    kept = (steady + [one for one in ranked if one.retiring])[: fleet.rules.total]
    roles = {one.number: State.STANDBY for one in kept}
    roles.update((one.number, State.ACTIVE) for one in kept[: fleet.rules.active])
    if canary is not None and canary != fleet.current:
        tried = sorted(
            fleet.serving(canary),
            key=lambda one: (bool(one.retiring), one.state is not State.CANARY, one.number),
        )
        roles.update((one.number, State.CANARY) for one in tried[:1])
    for replica in fleet.replicas:
        if replica.state not in PROVED:
            continue
        # The replicas of a pending release wait until all of them are proved.
        waiting = State.STANDBY if replica.release == fleet.pending else State.DRAINING
        role = roles.get(replica.number, waiting)
        if replica.state is not role:
            fleet = _put(fleet, replica.moved(role, now))
    return fleet, []


def _ready_to_switch(fleet: Fleet) -> bool:
    ready = [one for one in fleet.serving(fleet.pending) if not one.retiring]
    if len(ready) >= fleet.rules.total:
        return True
    stranded = fleet.current is not None and not fleet.serving(fleet.current)
    return stranded and len(ready) >= fleet.rules.active


def _rank(replica: Replica) -> tuple[bool, bool, int]:
    """Sort those first that should be active: what works, what is active already, the oldest."""
    return bool(replica.retiring), replica.state is not State.ACTIVE, replica.number


def _fill(fleet: Fleet, now: float) -> tuple[Fleet, list[Action]]:
    """Start the replicas that are missing, as soon as their release may be tried again."""
    needed: dict[str, int] = {}
    if fleet.canary and fleet.canary.release != fleet.current:
        needed[fleet.canary.release] = 1
    for release in (fleet.current, fleet.pending):
        if release is not None:
            needed[release] = fleet.rules.total
    actions: list[Action] = []
    for release, count in needed.items():
        if now < fleet.backoff(release).retry_at:
            continue
        there = [
            one
            for one in fleet.replicas
            if one.release == release and one.state in RUNNING and not one.retiring
        ]
        for _ in range(count - len(there)):
            number = fleet.next_number
            replica = Replica(number, release, State.STARTING, since=now)
            fleet = dataclasses.replace(
                fleet, replicas=(*fleet.replicas, replica), next_number=number + 1
            )
            actions.append(Start(number, release))
    return fleet, actions


def _start_parts(fleet: Fleet, now: float) -> tuple[Fleet, list[Action]]:
    actions: list[Action] = []
    if fleet.current is None:  # there is nothing to send requests to yet
        return fleet, actions
    for part in fleet.parts:
        if not part.running and not part.starting and now >= fleet.backoff(part.name).retry_at:
            fleet = _put_part(fleet, dataclasses.replace(part, starting=True))
            actions.append(StartPart(part.name))
    return fleet, actions


def _route(fleet: Fleet, _now: float) -> tuple[Fleet, list[Action]]:
    def numbers(state: State, release: str | None) -> tuple[int, ...]:
        return tuple(one.number for one in fleet.serving(release) if one.state is state)

    canary = fleet.canary if fleet.canary and fleet.canary.release != fleet.current else None
    tried = numbers(State.CANARY, canary.release) if canary else ()
    routes = Routes(
        numbers(State.ACTIVE, fleet.current),
        numbers(State.STANDBY, fleet.current),
        tried,
        canary.share if canary and tried else 0.0,
    )
    if routes == fleet.routes:
        return fleet, []
    number = fleet.route_number + 1
    return dataclasses.replace(fleet, routes=routes, route_number=number), [Route(routes, number)]


def _drain(fleet: Fleet, _now: float) -> tuple[Fleet, list[Action]]:
    """Let replicas end that no applied route names."""
    actions: list[Action] = []
    for replica in fleet.replicas:
        if replica.state is not State.DRAINING or replica.ordered:
            continue
        after = replica.drain_after or fleet.route_number
        ordered = fleet.routed >= after
        fleet = _put(fleet, dataclasses.replace(replica, drain_after=after, ordered=ordered))
        if ordered:
            actions.append(Drain(replica.number))
    return fleet, actions


def _put(fleet: Fleet, replica: Replica) -> Fleet:
    replicas = tuple(replica if one.number == replica.number else one for one in fleet.replicas)
    return dataclasses.replace(fleet, replicas=replicas)


def _put_part(fleet: Fleet, part: Part) -> Fleet:
    parts = tuple(part if one.name == part.name else one for one in fleet.parts)
    return dataclasses.replace(fleet, parts=parts)
