"""Routing, failover and draining of a running front."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from fake_replica import FakeReplica, wait_until

from delugeserve.errors import PortError, ServerError, UsageError
from delugeserve.serving import ports
from delugeserve.serving.front.front import start_front
from delugeserve.serving.front.installation import find_envoy
from delugeserve.serving.front.security import Security
from delugeserve.serving.front.settings import FrontSettings, Routing


@pytest.fixture(scope="module")
def setup(start):
    return start()


@pytest.fixture
def replica():
    made = []

    def make(name):
        made.append(FakeReplica(name))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def routed(setup):
    """The front, which has its first routing again afterwards."""
    before = setup.front.routing
    yield setup
    setup.front.route(before)


def answers(setup, count=20):
    return Counter(setup.infer().decode() for _ in range(count))


def test_a_front_runs_from_a_folder_with_a_long_path(replica, tmp_path, monkeypatch):
    folder = tmp_path / ("long" * 30)  # longer than the path of a Unix socket may be
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    upstream = replica("a").upstream
    found = ports.claim("127.0.0.1", {"grpc": 0})
    front = start_front(
        find_envoy(), FrontSettings("127.0.0.1", found["grpc"], None, None), Routing((upstream,))
    )
    front.stop()
    assert not list(folder.iterdir())


def test_the_standby_gets_nothing_while_the_active_replica_is_healthy(setup):
    assert answers(setup) == {"a": 20}
    assert setup.http("POST", "/v2/models/tiny/infer")[2] == b"a"
    assert setup.standby.inferences() == 0


def test_a_new_release_gets_all_requests_once_route_returns(routed, replica):
    new, spare = replica("new"), replica("spare")
    routed.front.route(Routing((new.upstream,), (spare.upstream,)))
    assert answers(routed) == {"new": 20}
    assert routed.http("POST", "/v2/models/tiny/infer")[2] == b"new"


def test_every_answer_comes_from_one_of_the_two_releases_while_it_changes(routed, replica):
    new = replica("new")
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(routed.infer) for _ in range(200)]
        routed.front.route(Routing((new.upstream,)))
        assert {future.result() for future in waiting} <= {b"a", b"new"}
    assert answers(routed) == {"new": 20}


def test_a_canary_gets_its_share(routed, replica):
    canary, old = replica("canary"), routed.front.routing
    routed.front.route(Routing(old.active, old.standby, (canary.upstream,), 0.5))
    found = answers(routed, 60)
    assert found.keys() == {"a", "canary"}
    assert 10 < found["canary"] < 50
    canary.stop()  # its share goes to the others
    assert answers(routed, 20) == {"a": 20}
    routed.front.route(old)
    assert answers(routed) == {"a": 20}


def test_an_unhealthy_replica_is_refused_and_nothing_changes(routed, replica):
    new = replica("new")
    new.healthy = False
    with pytest.raises(ServerError, match="new"):
        routed.front.route(Routing((new.upstream,)), timeout=1.5)
    assert answers(routed) == {"a": 20}


def test_a_replica_that_fails_is_passed_over_and_named(start):
    setup = start()

    def fail(context):
        context.abort(grpc.StatusCode.INTERNAL, "Stub process 'tiny_0' is not healthy.")

    setup.active.answer = fail
    assert answers(setup, 30) == {"b": 30}
    assert setup.active.inferences() == 5  # then it is ejected
    assert setup.front.ejected() == {"a"}


def test_a_replica_with_a_full_queue_is_not_broken(start):
    setup = start()

    def full(context):
        context.abort(grpc.StatusCode.UNAVAILABLE, "in ensemble 'a', Exceeds maximum queue size")

    setup.active.answer = full
    assert answers(setup) == {"b": 20}  # which has room
    setup.standby.answer = full
    with pytest.raises(grpc.RpcError) as caught:
        setup.infer()
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "queue" in caught.value.details()
    setup.active.http_answer = lambda: (503, b"Exceeds maximum queue size")
    for _ in range(20):
        assert setup.http("POST", "/v2/models/tiny/infer")[2] == b"b"
    assert setup.front.ejected() == frozenset()


def test_a_replica_that_fails_over_http(start):
    setup = start()
    setup.active.http_answer = lambda: (500, b"Stub process is not healthy")
    for _ in range(10):
        assert setup.http("POST", "/v2/models/tiny/infer")[2] == b"b"
    assert setup.front.ejected() == {"a"}


def test_a_large_request_is_retried_as_a_whole(start):
    setup = start()
    setup.active.answer = lambda context: context.abort(grpc.StatusCode.INTERNAL, "gone")
    setup.active.http_answer = lambda: (500, b"gone")
    body = bytes(range(256)) * 40_000  # Envoy's own limit would be 1 MiB
    assert setup.infer(body) == b"b"
    assert setup.standby.seen[-1][2] == body
    path = "/v2/models/tiny/infer"
    answer = setup.http("POST", path, body, inference_header_content_length="0")
    assert (answer[0], answer[2]) == (200, b"b")
    assert setup.standby.seen[-1][2] == body


def test_requests_in_flight_are_counted_and_finished(routed, replica):
    release, started = threading.Event(), threading.Event()

    def wait(context):
        started.set()
        release.wait(60)

    held = replica("held")
    held.answer = wait
    old = routed.front.routing
    routed.front.route(Routing((held.upstream,)))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(routed.infer)
        started.wait(60)
        assert routed.front.requests_in_flight("held") == 1
        routed.front.route(old)
        assert routed.front.requests_in_flight("held") == 1
        assert answers(routed) == {"a": 20}
        release.set()
        assert waiting.result(60) == b"held"
    wait_until(lambda: routed.front.requests_in_flight("held") == 0)
    assert routed.front.requests_in_flight("unknown") == 0


def test_the_internal_listener_reaches_the_replicas(setup):
    with grpc.insecure_channel(f"127.0.0.1:{setup.front.internal_port}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        assert infer(b"", timeout=60) == b"a"


def test_statistics_are_readable_and_nothing_else(setup):
    base = f"http://127.0.0.1:{setup.front.admin_port}"
    with urllib.request.urlopen(f"{base}/stats/prometheus") as page:
        assert b"envoy_cluster_upstream_rq_time_bucket" in page.read()
    for method, path in (("POST", "/quitquitquit"), ("GET", "/config_dump"), ("POST", "/stats")):
        connection = http.client.HTTPConnection("127.0.0.1", setup.front.admin_port)
        with contextlib.closing(connection):
            connection.request(method, path)
            assert connection.getresponse().status == 404


def test_a_taken_port(setup, envoy):
    taken = setup.front.settings.grpc_port
    settings = FrontSettings("127.0.0.1", taken, None, None)
    with pytest.raises(PortError) as caught:
        start_front(envoy, settings, setup.front.routing)
    assert (caught.value.port, caught.value.endpoint) == (taken, "grpc")


def test_stop_answers_what_was_accepted(start):
    setup = start()
    release, started = threading.Event(), threading.Event()

    def wait(context):
        started.set()
        release.wait(60)

    setup.active.answer = wait
    internal = f"127.0.0.1:{setup.front.internal_port}"
    with ThreadPoolExecutor(3) as pool, grpc.insecure_channel(internal) as channel:
        waiting = pool.submit(setup.infer)
        started.wait(60)
        folder = setup.front._process.folder.path
        stopping = pool.submit(setup.front.stop)
        port = setup.front.settings.grpc_port
        wait_until(lambda: _is_free(port))
        assert not waiting.done()
        # The gateway asks for what it has accepted, also now.
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        late = pool.submit(infer, b"", timeout=60)
        wait_until(lambda: setup.front.requests_in_flight("a") == 2)
        release.set()
        assert waiting.result(60) == late.result(60) == b"a"
        stopping.result(60)
    assert setup.front.poll() == 0
    assert not folder.exists()


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
@pytest.mark.parametrize("address", ["::1", "::"])
def test_ipv6(start, address):
    try:
        ports.claim("::1", {"grpc": 0})
    except UsageError:
        pytest.skip("needs the address ::1")
    setup = start(address=address, security=Security(insecure=True))
    port = setup.front.settings.grpc_port
    for host in ("[::1]", "127.0.0.1") if address == "::" else ("[::1]",):
        with grpc.insecure_channel(f"{host}:{port}") as channel:
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            assert infer(b"", timeout=60) == b"a"


def _is_free(port):
    try:
        ports.claim("127.0.0.1", {"grpc": port})
    except PortError:
        return False
    return True
