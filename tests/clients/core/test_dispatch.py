import itertools
import math
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from simulated import SimulatedReactor, SimulatedServer

from delugeserve_client.core.dispatch import Dispatcher, Settings
from delugeserve_client.core.failures import Kind
from delugeserve_client.core.observing import Observer
from delugeserve_client.core.retry import RetryPolicy
from delugeserve_client.errors import ArgumentError


class Outcomes:
    """What became of requests: time, reply, failure and endpoint of each."""

    def __init__(self, reactor):
        self.reactor, self.of = reactor, {}

    def expect(self, request):
        def done(reply, failure, endpoint):
            assert request not in self.of, "a request ends once"
            self.of[request] = (self.reactor.time, reply, failure, endpoint)

        return done

    @property
    def failures(self):
        return [failure for _, _, failure, _ in self.of.values() if failure is not None]


def start(servers, seed=0, observers=(), **settings):
    reactor = SimulatedReactor(servers, seed)
    dispatcher = Dispatcher(
        reactor,
        len(servers),
        Settings(**settings),
        chance=random.Random(seed),
        observers=observers,
    )
    return reactor, dispatcher, Outcomes(reactor)


def closed_loop(reactor, dispatcher, outcomes, workers, until):
    """Keep requests coming: each worker hands in its next when its last is over."""
    numbers = iter(range(10**9))

    def next_one():
        if reactor.time >= until:
            return
        request = next(numbers)
        expected = outcomes.expect(request)

        def done(*outcome):
            expected(*outcome)
            reactor.call_later(0.001, next_one)

        dispatcher.submit(request, done)

    for _ in range(workers):
        next_one()


STATES = ("up", "gone", "hung", "draining", "busy", "broken", "refusing")
servers = st.builds(
    SimulatedServer,
    seconds=st.floats(0.001, 3),
    batch=st.integers(1, 8),
    queue=st.integers(1, 20),
    state=st.dictionaries(st.floats(0.1, 10), st.sampled_from(STATES), max_size=3).map(
        lambda later: {0.0: "up", **later}
    ),
)


@settings(max_examples=40)
@given(
    st.lists(servers, min_size=1, max_size=3),
    st.integers(1, 20),
    st.floats(0.05, 10),
    st.none() | st.floats(0, 1),
    st.none() | st.integers(1, 5),
    st.integers(0, 3),
)
def test_every_request_ends_once_and_in_time(servers, requests, timeout, hedge, in_flight, seed):
    reactor, dispatcher, outcomes = start(
        servers, seed, timeout=timeout, hedge=hedge, in_flight=in_flight
    )
    for request in range(requests):
        dispatcher.submit(request, outcomes.expect(request))
    reactor.run(until=timeout * (requests + 1) + 60)
    assert len(outcomes.of) == requests
    first = {}
    for time, _, request, given_time in reactor.sends:
        began = first.setdefault(request, time)
        # An attempt has what the attempts before it left.
        assert given_time <= timeout - (time - began) + 1e-6
    for request, (ended, reply, failure, _) in outcomes.of.items():
        assert ended <= first[request] + timeout + 1e-6
        assert reply == request or failure is not None
    assert dispatcher.endpoints.in_flight == 0


@settings(max_examples=30)
@example(1, 20, 8.0)
@example(2, 20, 8.0)
@given(st.integers(1, 64), st.integers(1, 100), st.floats(0.01, 8))
def test_no_deadline_runs_while_a_request_waits_here(batch, requests, seconds):
    """A slow network fails no request, though all of them take far longer than the timeout."""
    server = SimulatedServer(seconds=seconds, batch=batch)
    reactor, dispatcher, outcomes = start([server], timeout=30.0)
    for request in range(requests):
        dispatcher.submit(request, outcomes.expect(request))
    reactor.run(until=1e6)
    assert len(outcomes.of) == requests
    assert outcomes.failures == []


def test_in_flight_follows_a_server_that_batches():
    server = SimulatedServer(seconds=0.1, batch=32)
    reactor, dispatcher, outcomes = start([server])
    closed_loop(reactor, dispatcher, outcomes, workers=100, until=10)
    reactor.run(until=10)
    assert dispatcher.endpoints.limit >= 32
    assert len(outcomes.of) > 0.8 * 32 / 0.105 * 8  # of what it could in the last 8 s


def test_in_flight_stays_low_where_more_does_not_help():
    server = SimulatedServer(seconds=0.05, batch=1)
    reactor, dispatcher, outcomes = start([server])
    closed_loop(reactor, dispatcher, outcomes, workers=100, until=20)
    reactor.run(until=20)
    assert dispatcher.endpoints.limit <= 8
    assert len(outcomes.of) > 0.9 * 20 / 0.05


def test_a_full_queue_costs_time_and_no_request():
    server = SimulatedServer(seconds=0.02, batch=2, queue=3)
    reactor, dispatcher, outcomes = start([server], timeout=60.0)
    for request in range(100):
        dispatcher.submit(request, outcomes.expect(request))
    reactor.run(until=600)
    assert len(outcomes.of) == 100
    assert outcomes.failures == []


@pytest.mark.parametrize("trouble", ["gone", "hung", "draining"])
@pytest.mark.parametrize("seed", range(2))
def test_traffic_moves_within_a_second_and_comes_back(trouble, seed):
    servers = [
        SimulatedServer(seconds=0.2, batch=4, state={0.0: "up", 3.0: trouble, 8.0: "up"}),
        SimulatedServer(seconds=0.2, batch=4),
    ]
    reactor, dispatcher, outcomes = start(servers, seed)
    closed_loop(reactor, dispatcher, outcomes, workers=8, until=25)
    reactor.run(until=30)
    assert outcomes.failures == []
    answered = sorted(time for time, *_ in outcomes.of.values())
    gaps = [after - before for before, after in itertools.pairwise(answered)]
    assert max(gaps) < 1.0
    # Nothing new is sent to the server in trouble a second later, and it gets its share again.
    assert not [time for time, number, *_ in reactor.sends if number == 0 and 4.0 < time < 8.0]
    returned = [time for time, number, *_ in reactor.sends if number == 0 and time > 8.0]
    assert returned[0] < 8.0 + 10.5
    assert len(returned) > 20


def test_only_the_time_of_a_hung_server_is_lost():
    servers = [
        SimulatedServer(state={0.0: "up", 1.0: "hung"}),
        SimulatedServer(),
    ]
    reactor, dispatcher, outcomes = start(servers)
    closed_loop(reactor, dispatcher, outcomes, workers=8, until=3)
    reactor.run(until=10)
    assert outcomes.failures == []
    first = {}
    for time, _, request, _ in reactor.sends:
        first.setdefault(request, time)
    assert first.keys() == outcomes.of.keys()
    assert max(ended - first[request] for request, (ended, *_) in outcomes.of.items()) < 1.0


@pytest.mark.parametrize("attempts", [1, 5])
def test_attempts_bound_the_repetitions(attempts):
    retry = RetryPolicy(attempts=attempts)
    reactor, dispatcher, outcomes = start([SimulatedServer(state={0.0: "gone"})], retry=retry)
    dispatcher.submit(0, outcomes.expect(0))
    reactor.run(until=30)
    ended, _, failure, _ = outcomes.of[0]
    assert failure.kind is Kind.GONE
    assert len(reactor.sends) == attempts
    assert ended < 2.0


@pytest.mark.parametrize("trouble", ["gone", "draining"])
@pytest.mark.parametrize("count", [1, 2])
def test_requests_outlast_a_restart(trouble, count):
    """However many are in flight: the budget of repetitions is no reason to lose one."""
    servers = [SimulatedServer(batch=64, state={0.0: trouble, 15.0: "up"}) for _ in range(count)]
    reactor, dispatcher, outcomes = start(servers, in_flight=256)
    for request in range(256):
        dispatcher.submit(request, outcomes.expect(request))
    reactor.run(until=40)
    assert len(outcomes.of) == 256
    assert outcomes.failures == []
    assert max(ended for ended, *_ in outcomes.of.values()) < 15.0 + 10.0
    assert sum(time < 15.0 for time, *_ in reactor.sends) < 256 + 2 * 100 + 15 * 10


@pytest.mark.parametrize("state", ["broken", "refusing"])
def test_what_another_attempt_cannot_help_is_not_sent_again(state):
    servers = [SimulatedServer(state={0.0: state}), SimulatedServer(state={0.0: state})]
    reactor, dispatcher, outcomes = start(servers)
    dispatcher.submit(0, outcomes.expect(0))
    reactor.run(until=30)
    assert len(reactor.sends) == 1
    assert len(outcomes.failures) == 1


def test_the_budget_bounds_the_repetitions():
    retry = RetryPolicy(budget=10, refill_per_second=2, refill_per_answer=0)
    reactor, dispatcher, outcomes = start(
        [SimulatedServer(state={0.0: "busy"})], timeout=20.0, retry=retry, in_flight=50
    )
    for request in range(50):
        dispatcher.submit(request, outcomes.expect(request))
    reactor.run(until=30)
    assert len(outcomes.of) == 50
    assert len(reactor.sends) - 50 <= 10 + 2 * 20
    assert {failure.kind for failure in outcomes.failures} == {Kind.OVERLOADED}


def test_an_overloaded_server_gets_no_more_than_the_budget():
    """Although it answers now and then: answers that took repetitions give no tokens back."""
    retry = RetryPolicy(budget=10, refill_per_second=2, refill_per_answer=0.2)
    reactor, dispatcher, outcomes = start(
        [SimulatedServer(seconds=0.2, batch=1, queue=1)], retry=retry, in_flight=50
    )
    closed_loop(reactor, dispatcher, outcomes, workers=50, until=20)
    reactor.run(until=60)
    answered = len(outcomes.of) - len(outcomes.failures)
    assert answered > 50
    assert len(reactor.sends) - len(outcomes.of) <= 10 + 2 * 60 + 0.2 * answered


def test_a_hedge_answers_where_the_first_server_is_slow():
    servers = [SimulatedServer(seconds=5.0), SimulatedServer(seconds=0.01)]
    reactor, dispatcher, outcomes = start(servers, hedge=0.1)
    for request in range(2):
        dispatcher.submit(request, outcomes.expect(request))
    reactor.run(until=20)
    assert outcomes.failures == []
    assert all(ended < 0.2 and endpoint == 1 for ended, _, _, endpoint in outcomes.of.values())
    assert dispatcher.endpoints.in_flight == 0


def test_a_hedge_does_not_hide_a_hung_server():
    """One request at a time, all answered by their hedges: the server that hangs gets no more."""
    reactor, dispatcher, outcomes = start(
        [SimulatedServer(state={0.0: "hung"}), SimulatedServer()], hedge=0.05
    )
    for request in range(200):
        dispatcher.submit(request, outcomes.expect(request))
        reactor.run(until=0.1 * (request + 1))
    assert outcomes.failures == []
    assert len(outcomes.of) == 200
    assert not dispatcher.endpoints.all[0].healthy
    assert sum(number == 0 for _, number, *_ in reactor.sends) < 20


def test_nothing_is_asked_while_nothing_is_owed():
    reactor, dispatcher, outcomes = start([SimulatedServer(), SimulatedServer()])
    dispatcher.submit(0, outcomes.expect(0))
    reactor.run(until=60)
    assert outcomes.failures == []
    assert reactor._events == []


def test_closing_ends_everything():
    reactor, dispatcher, outcomes = start([SimulatedServer(seconds=5.0)], in_flight=2)
    for request in range(5):
        dispatcher.submit(request, outcomes.expect(request))
    dispatcher.close()
    dispatcher.submit(5, outcomes.expect(5))
    assert [failure.kind for failure in outcomes.failures] == [Kind.CLOSED] * 6
    reactor.run(until=20)
    assert len(outcomes.of) == 6


class Ends(Observer):
    def __init__(self):
        self.seen = []

    def finished(self, request, failure):
        self.seen.append((request, failure and failure.kind))
        raise RuntimeError("a mistake of the program")


def test_a_cancelled_request_makes_room_and_is_finished():
    ends = Ends()
    reactor, dispatcher, outcomes = start(
        [SimulatedServer(seconds=5.0)], in_flight=1, observers=[ends]
    )
    cancel = dispatcher.submit("cancelled", outcomes.expect("cancelled"))
    dispatcher.submit("next", outcomes.expect("next"))
    cancel()
    cancel()
    reactor.run(until=20)
    assert set(outcomes.of) == {"next"}
    assert outcomes.failures == []
    assert ends.seen == [("cancelled", Kind.CLOSED), ("next", None)]


@pytest.mark.parametrize(
    ("name", "value"), [("attempts", 0), ("budget", -1), ("largest", math.inf)]
)
def test_senseless_retry_policies(name, value):
    with pytest.raises(ArgumentError) as caught:
        RetryPolicy(**{name: value})
    assert (caught.value.argument, caught.value.value) == (name, repr(value))
