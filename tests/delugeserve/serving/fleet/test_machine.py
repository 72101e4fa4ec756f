"""The state machine of a fleet, without processes."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delugeserve.serving.fleet import events
from delugeserve.serving.fleet.machine import step
from delugeserve.serving.fleet.states import (
    FRONT,
    GATEWAY,
    PROVED,
    RUNNING,
    TRANSITIONS,
    Canary,
    Fleet,
    Part,
    Phase,
    Replica,
    Rules,
    State,
)

PARTS = (Part(FRONT), Part(GATEWAY))


class World:
    """Carries out the actions of a fleet: everything works, unless it is told otherwise."""

    def __init__(self, fleet: Fleet | None = None) -> None:
        self.fleet = fleet or Fleet(parts=PARTS)
        self.now = 0.0
        self.done: list[events.Action] = []
        self.bad: set[str] = set()  # releases that fail their proof
        self.broken: set[str] = set()  # parts that do not start
        self.front_stuck = False

    def send(self, event: events.Event, seconds: float = 0.0) -> World:
        """Let something happen, and whatever follows from it."""
        todo = [event]
        self.now += seconds
        handled = 0
        while todo:
            handled += 1
            assert handled < 100  # nothing goes round in circles
            self.fleet, actions = step(self.fleet, todo.pop(0), self.now)
            self.done += actions
            for action in actions:
                todo += self.answer(action)
        return self

    def answer(self, action: events.Action) -> list[events.Event]:
        match action:
            case events.Start(number, _):
                return [events.Loaded(number)]
            case events.Prove(number):
                replica = self.fleet.find(number)
                if replica and replica.release in self.bad:
                    return [events.Lost(number, "It answers wrongly.")]
                return [events.Proved(number)]
            case events.Route(_, number):
                return [] if self.front_stuck else [events.Routed(number)]
            case events.Drain(number) | events.Kill(number):
                return [events.Ended(number)]
            case events.StartPart(name):
                if name in self.broken:
                    return [events.PartLost(name, "It ended.")]
                return [events.PartStarted(name, self.fleet.route_number)]
            case events.DrainFront():
                return [events.FrontDrained()]
        return []

    def states(self, release: str) -> list[str]:
        return [one.state.value for one in self.fleet.replicas if one.release == release]

    def number(self, state: State) -> int:
        return next(one.number for one in self.fleet.replicas if one.state is state)

    def actions(self, kind: type) -> list:
        return [action for action in self.done if isinstance(action, kind)]


@pytest.fixture
def world() -> World:
    """A fleet at full strength that serves the release ``a``."""
    return World().send(events.Wanted("a"))


def test_a_fleet_starts_a_proved_pair_behind_a_front(world):
    assert world.states("a") == ["active", "standby"]
    assert world.fleet.full_strength
    # The front starts when there is something to send requests to, and with the right routes.
    kinds = [type(action).__name__ for action in world.done]
    assert kinds.index("Prove") < kinds.index("Route") < kinds.index("StartPart")
    assert world.fleet.routed == world.fleet.route_number


def test_a_release_that_fails_at_the_start_ends_the_fleet():
    world = World()
    world.bad.add("a")
    world.send(events.Wanted("a"))
    assert world.fleet.phase is Phase.ENDED
    assert world.fleet.fault == "It answers wrongly."


def test_a_part_that_does_not_start_at_first_ends_the_fleet():
    world = World()
    world.broken.add(FRONT)
    world.send(events.Wanted("a"))
    assert world.fleet.phase is Phase.ENDED
    assert world.fleet.fault == "It ended."


def test_a_lost_active_replica_is_replaced_by_its_standby(world):
    active, standby = world.number(State.ACTIVE), world.number(State.STANDBY)
    world.send(events.Lost(active, "It died."))
    assert world.number(State.ACTIVE) == standby
    assert world.fleet.find(active) is None
    assert world.states("a") == ["active", "standby"]
    assert world.fleet.full_strength
    assert world.actions(events.Kill) == [events.Kill(active)]


def test_a_new_release_takes_over_when_all_its_replicas_are_proved(world):
    world.done.clear()
    world.send(events.Wanted("b"))
    assert world.states("a") == []
    assert world.states("b") == ["active", "standby"]
    kinds = [type(action).__name__ for action in world.done]
    # One route moves everything; only then do the old ones drain.
    assert kinds.count("Route") == 1
    assert max(i for i, kind in enumerate(kinds) if kind == "Prove") < kinds.index("Route")
    assert kinds.index("Route") < kinds.index("Drain")
    assert not world.actions(events.Kill)


def test_old_replicas_wait_for_the_route(world):
    world.front_stuck = True
    world.send(events.Wanted("b"))
    assert world.states("a") == ["draining", "draining"]
    assert not world.actions(events.Drain)
    world.send(events.Routed(world.fleet.route_number))
    assert world.states("a") == []


def test_a_release_that_fails_changes_nothing(world):
    world.bad.add("b")
    before = world.fleet.routes
    world.send(events.Wanted("b"))
    assert (world.fleet.current, world.fleet.pending) == ("a", None)
    assert world.fleet.rejected.release == "b"
    assert world.fleet.rejected.reason == "It answers wrongly."
    assert world.fleet.routes == before
    assert world.states("b") == []
    starts = len(world.actions(events.Start))
    world.send(events.Wanted("b"), 1)  # the repository still says so
    assert len(world.actions(events.Start)) == starts
    world.bad.clear()
    world.send(events.Wanted("b", again=True), 1)
    assert world.fleet.current == "b"


def test_a_release_that_is_taken_back_in_time(world):
    for event in (events.Wanted("b"), events.Wanted("a")):
        fleet, _ = step(world.fleet, event, 1)
        world.fleet = fleet
    world.send(events.Tick(), 1)
    assert (world.fleet.current, world.fleet.pending) == ("a", None)
    assert world.states("b") == ["stopped", "stopped"]  # killed before they were proved
    assert world.states("a") == ["active", "standby"]


def test_a_replica_that_outgrows_its_limit_is_replaced_without_a_gap(world):
    active, standby = world.number(State.ACTIVE), world.number(State.STANDBY)
    world.done.clear()
    world.send(events.Outgrown(active, "It uses 3 GiB."))
    assert world.fleet.find(active) is None
    assert world.number(State.ACTIVE) == standby
    assert world.fleet.full_strength
    assert not world.actions(events.Kill)
    for route in world.actions(events.Route):
        assert route.routes.active


def test_losses_soon_after_the_start_are_made_good_later_and_later(world):
    waits = []
    for _ in range(4):
        world.send(events.Lost(world.number(State.STANDBY), "It died."))
        waits.append(world.fleet.backoff("a").retry_at - world.now)
        assert len(world.fleet.serving("a")) == (2 if waits[-1] == 0 else 1)
        world.send(events.Tick(), waits[-1])
        assert world.fleet.full_strength
    assert waits[0] == 0
    assert 0.25 <= waits[1] <= 0.5
    assert waits[1] < waits[2] < waits[3]


def test_a_crash_loop_beside_a_working_replica_is_told_and_survived(world):
    for _ in range(5):
        world.send(events.Lost(world.number(State.STANDBY), "It died."))
        world.send(events.Tick(), world.fleet.backoff("a").retry_at - world.now)
    assert world.fleet.looping == {"a"}
    assert world.fleet.phase is Phase.RUNNING
    world.send(events.Tick(), 61)
    assert world.fleet.looping == frozenset()


def test_a_crash_loop_with_nothing_left_ends_with_its_cause(world):
    for _ in range(10):
        if world.fleet.phase is Phase.RUNNING:
            victims = [one for one in world.fleet.replicas if one.state in PROVED]
            for victim in victims:
                world.send(events.Lost(victim.number, "The process of model 'm' died."))
            world.send(events.Tick(), max(world.fleet.backoff("a").retry_at - world.now, 0))
    assert world.fleet.phase is Phase.ENDED
    assert "5 times within 60 seconds: The process of model 'm' died." in world.fleet.fault


def test_replicas_lost_long_after_their_start_are_no_crash_loop(world):
    for _ in range(20):
        world.send(events.Tick(), 11)
        world.send(events.Lost(world.number(State.ACTIVE), "Killed."))
        assert world.fleet.full_strength
    assert not world.fleet.looping


def test_a_canary_gets_its_share_and_goes(world):
    world.send(events.Wanted("a", Canary("b", 0.05)))
    assert world.states("b") == ["canary"]
    assert world.fleet.routes.share == 0.05
    assert len(world.fleet.routes.canary) == 1
    world.send(events.Wanted("a"))
    assert world.states("b") == []
    assert (world.fleet.routes.canary, world.fleet.routes.share) == ((), 0.0)
    assert world.states("a") == ["active", "standby"]


def test_a_canary_that_is_promoted_keeps_its_replica(world):
    world.send(events.Wanted("a", Canary("b", 0.05)))
    canary = world.number(State.CANARY)
    world.send(events.Wanted("b"))
    assert world.fleet.current == "b"
    assert canary in {*world.fleet.routes.active, *world.fleet.routes.standby}
    assert sorted(world.states("b")) == ["active", "standby"]


def test_a_canary_that_fails_leaves_the_rest_alone(world):
    world.bad.add("b")
    world.send(events.Wanted("a", Canary("b", 0.05)))
    assert world.fleet.canary_rejected.release == "b"
    assert world.states("b") == []
    world.send(events.Wanted("a", Canary("b", 0.05)))
    assert world.fleet.canary is None
    assert world.fleet.full_strength


def test_a_front_that_dies_is_started_again_with_the_routes_of_now(world):
    world.done.clear()
    world.send(events.PartLost(FRONT, "Killed."), 20)
    assert world.actions(events.StartPart) == [events.StartPart(FRONT)]
    assert world.fleet.part(FRONT).starts == 2
    assert world.fleet.full_strength


def test_a_front_in_a_crash_loop_ends_the_fleet(world):
    world.broken.add(FRONT)
    world.send(events.PartLost(FRONT, "Killed."), 20)
    for _ in range(5):
        world.send(events.Tick(), 10)
    assert world.fleet.phase is Phase.ENDED
    assert "The front failed 5 times" in world.fleet.fault


def test_a_gateway_in_a_crash_loop_does_not(world):
    world.broken.add(GATEWAY)
    world.send(events.PartLost(GATEWAY, "Killed."), 20)
    for _ in range(9):
        world.send(events.Tick(), 5)
    assert world.fleet.phase is Phase.RUNNING
    assert GATEWAY in world.fleet.looping
    world.broken.clear()
    world.send(events.Tick(), 30)
    assert world.fleet.part(GATEWAY).running


def test_a_stop_drains_the_front_before_the_replicas(world):
    world.done.clear()
    world.send(events.StopRequested())
    assert [type(action) for action in world.done] == [events.DrainFront] + [events.Drain] * 2
    assert world.fleet.phase is Phase.ENDED
    assert world.fleet.fault == ""


RELEASES = st.sampled_from(["a", "b", "c"])
NUMBERS = st.integers(1, 12)
EVENTS = st.one_of(
    st.builds(
        events.Wanted,
        RELEASES,
        st.none() | st.builds(Canary, RELEASES, st.sampled_from([0.05, 0.5])),
        st.booleans(),
    ),
    st.builds(events.Loaded, NUMBERS),
    st.builds(events.Proved, NUMBERS),
    st.builds(events.Lost, NUMBERS, st.just("It died.")),
    st.builds(events.Outgrown, NUMBERS, st.just("It grew.")),
    st.builds(events.Ended, NUMBERS),
    st.builds(events.PartLost, st.sampled_from([FRONT, GATEWAY]), st.just("It died.")),
    st.builds(events.Tick),
)


@settings(max_examples=40)
@given(
    rules=st.builds(Rules, active=st.integers(1, 2), standby=st.integers(0, 2)),
    happened=st.lists(st.tuples(EVENTS, st.sampled_from([0.0, 0.3, 3.0, 20.0])), max_size=40),
)
def test_whatever_happens(rules, happened):
    """Nothing but a loss takes service away, releases do not mix, and nothing drains in traffic."""
    fleet, now = Fleet(rules=rules, parts=PARTS), 0.0
    todo: list[events.Event] = []
    drained: list[int] = []
    applied: dict[int, events.Route] = {}
    for event, seconds in [(events.Wanted("a"), 0.0), *happened]:
        now += seconds
        if isinstance(event, events.Ended):
            replica = fleet.find(event.number)
            if replica is None or replica.state is not State.STOPPED:
                continue  # processes end when they are told to, or are lost
        todo.append(event)
        handled = 0
        while todo:
            handled += 1
            assert handled < 100  # nothing goes round in circles
            first = todo.pop(0)
            before = fleet
            fleet, actions = step(fleet, first, now)  # an impossible transition raises
            check(before, fleet, first)
            for action in actions:
                match action:
                    case events.Route(_, number):
                        applied[number] = action
                        todo.append(events.Routed(number))
                    case events.StartPart(name):
                        todo.append(events.PartStarted(name, fleet.route_number))
                    case events.Drain(number):
                        routes = fleet.routes
                        assert number not in drained
                        assert number not in {*routes.active, *routes.standby, *routes.canary}
                        assert fleet.routed >= fleet.find(number).drain_after
                        drained.append(number)
    # Left alone, with everything working, it reaches full strength.
    if fleet.phase is Phase.RUNNING:
        world = World(fleet)
        world.now = now
        for replica in fleet.replicas:
            match replica.state:
                case State.STARTING:
                    world.send(events.Loaded(replica.number))
                case State.PROVING:
                    world.send(events.Proved(replica.number))
                case State.STOPPED | State.DRAINING:
                    world.send(events.Ended(replica.number))
        for _ in range(4):
            world.send(events.Tick(), 40)
        assert world.fleet.full_strength


def check(before: Fleet, after: Fleet, event: events.Event) -> None:
    if after.phase is not Phase.RUNNING:
        return
    routes = after.routes
    served = {after.find(number).release for number in (*routes.active, *routes.standby)}
    assert served <= {after.current}
    for number in (*routes.active, *routes.standby, *routes.canary):
        assert after.find(number).state in PROVED
    assert len(routes.active) <= after.rules.active
    if before.routes.active and not isinstance(event, events.Lost):
        assert len(routes.active) >= min(len(before.routes.active), after.rules.active)
    if after.current != before.current and before.serving(before.current):
        assert len(after.serving(after.current)) >= after.rules.total
    for release in {one.release for one in after.replicas}:
        there = [one for one in after.replicas if one.release == release and not one.retiring]
        assert sum(one.state in RUNNING for one in there) <= after.rules.total


def test_a_replica_refuses_a_change_that_is_not_in_the_table():
    replica = Replica(1, "a", State.STARTING, since=0)
    with pytest.raises(ValueError, match="starting to active"):
        replica.moved(State.ACTIVE, 1)


def test_delays_of_fleets_differ():
    waits = set()
    for seed in (0.1, 0.6):
        world = World(dataclasses.replace(Fleet(parts=PARTS), seed=seed))
        world.send(events.Wanted("a"))
        for _ in range(2):
            world.send(events.Lost(world.number(State.STANDBY), "It died."))
        waits.add(world.fleet.backoff("a").retry_at)
    assert len(waits) == 2


def test_every_state_is_left_in_the_table():
    left = {before for before, _ in TRANSITIONS}
    assert left == set(State) - {State.STOPPED}
