"""Replicas that the gateway asks without the proxy, which is another stand-in for Triton."""

from __future__ import annotations

import asyncio
import json
import threading

import grpc
import pytest

pytest.importorskip("starlette", reason="the gateway needs the extra 'server'")

from asgi import FakeTriton, call, multipart, sent_pixels, serving

from delugeserve.serving.gateway.upstream import Upstream
from delugeserve_client.preprocessing import Preprocessing


@pytest.fixture
def replica():
    return FakeTriton(models={"colour": ("7",)})


@pytest.fixture
def named(tmp_path):
    """The file that names the replicas; ``write`` replaces it as the supervisor does."""

    class File:
        path = tmp_path / "replicas.json"

        def write(self, **addresses):
            beside = tmp_path / "beside"
            beside.write_text(json.dumps(addresses))
            beside.replace(self.path)

    return File()


@pytest.fixture
def both(gateway, triton, replica, named):
    """The gateway between a proxy, which serves version 1, and a replica with version 7."""
    gateway.run(gateway.upstream.close())
    with serving(replica) as address:
        gateway.upstream = Upstream(gateway.settings.grpc, named.path)
        gateway.set()
        named.write(**{"replica-1": address})
        gateway.address = address
        yield gateway


def _version(gateway, image, target="/classify"):
    answer = gateway.post(target, image)
    assert answer.status == 200, answer.body
    return answer.json()["version"]


def test_a_replica_is_asked_without_the_proxy(both, triton, replica, encode):
    answer = both.post("/classify?top_k=2&timeout=9", encode("red"), headers={"x-request-id": "a"})
    assert answer.json()["version"] == "7"
    assert [one["label"] for one in answer.json()["predictions"]] == ["red", "green: grass"]
    (request,) = replica.requests
    assert (sent_pixels(request)[0] == sent_pixels(request)[0, 0, 0]).all()
    assert request.id == "a"
    assert replica.metadata[0]["x-request-id"] == "a"
    assert not triton.requests


@pytest.mark.parametrize(("attempt", "version"), [("1", "7"), ("2", "1")])
def test_an_image_that_may_have_ended_the_gateway_is_decoded_elsewhere(
    both, triton, replica, encode, attempt, version
):
    for one, served in ((triton, "1"), (replica, "7")):
        one.models = {"colour": (served,), "colour_image": (served,)}
        one.preprocessing = Preprocessing(8, 12, 8).digest
    headers = {"x-envoy-attempt-count": attempt}
    answer = both.post("/classify", encode(), headers=headers)
    assert answer.json()["version"] == version
    assert [one.model_name for one in triton.requests] == ["colour_image"] * (version == "1")


@pytest.mark.parametrize(
    "status", ["UNAVAILABLE", "INTERNAL", "CANCELLED", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"]
)
def test_the_proxy_is_asked_when_a_replica_fails_and_for_a_while(
    both, triton, replica, encode, status
):
    replica.handler = lambda _, context: context.abort(getattr(grpc.StatusCode, status), "broken")
    assert _version(both, encode()) == "1"
    assert _version(both, encode()) == "1"
    assert (len(replica.requests), len(triton.requests)) == (1, 2)


def test_a_dead_replica_costs_no_request(both, named, encode):
    assert _version(both, encode()) == "7"
    named.write(**{"replica-1": both.address, "replica-2": "127.0.0.1:1"})
    assert {_version(both, encode()) for _ in range(6)} <= {"1", "7"}


def test_a_changed_file_counts_at_once(both, named, encode):
    assert _version(both, encode()) == "7"
    named.write()  # as while there is a canary
    assert _version(both, encode()) == "1"
    named.write(**{"replica-1": both.address})
    assert _version(both, encode()) == "7"
    named.path.write_text("[")
    assert _version(both, encode()) == "1"
    named.path.unlink()
    assert _version(both, encode()) == "1"


def test_a_replica_that_is_left_out_answers_what_it_has(both, replica, named, encode):
    def leave_out(_request, _context):
        named.write()
        return [0.7, 0.2, 0.1]

    replica.handler = leave_out
    assert _version(both, encode()) == "7"
    assert _version(both, encode()) == "1"


def test_images_that_wait_are_sent_together_and_answered_alone(both, replica, encode):
    headers, body = multipart(
        *(("image", str(n), encode()) for n in range(6)), ("image", "x", b"?")
    )
    answer = both.post("/classify?top_k=1", body, headers=headers)
    assert answer.status == 200
    results = answer.json()["results"]
    assert [item.get("version") for item in results] == ["7"] * 6 + [None]
    assert results[-1]["status"] == 400
    assert sum(request.inputs[0].shape[0] for request in replica.requests) == 6


def test_a_bad_image_rests_no_replica(both, triton, replica, encode):
    assert both.post("/classify", b"not an image").status == 400
    assert _version(both, encode()) == "7"
    assert not triton.requests


def test_a_short_time_rests_no_replica(both, triton, replica, encode):
    def slow(request, context):
        replica.cancelled.wait(20)
        return [1, 0, 0]

    assert _version(both, encode()) == "7"
    quick, replica.handler = replica.handler, slow
    answer = both.post("/classify?timeout=0.05", encode())
    assert (answer.status, answer.headers.get("retry-after")) == (504, None)
    both.run(asyncio.sleep(0.01))
    assert replica.cancelled.wait(20)
    replica.handler = quick
    assert _version(both, encode()) == "7"
    assert not triton.requests


def test_a_client_that_leaves_cancels_its_inference(both, replica, encode):
    left = asyncio.Event()

    def slow(request, context):
        both.loop.call_soon_threadsafe(left.set)
        replica.cancelled.wait(20)
        return [1, 0, 0]

    _version(both, encode())
    replica.handler = slow
    both.post("/classify", encode(), leave=left)
    both.run(asyncio.sleep(0.01))  # the request is cancelled after the client was dismissed
    assert replica.cancelled.wait(20)


def test_an_ensemble_that_may_decode_differently_is_asked_itself(both, triton, replica, encode):
    """The stand-in's ensemble does not tell its preprocessing."""
    for one in (triton, replica):
        one.models = {"colour": ("7",), "colour_image": ("7",)}
    assert _version(both, encode()) == "7"
    assert [request.model_name for request in triton.requests] == ["colour_image"]
    assert not replica.requests
    assert both.get("/models").json()["models"][0]["decoded_by"] == "server"


def test_an_ensemble_that_decodes_in_the_same_way_is_not_needed(both, triton, replica, encode):
    for one in (triton, replica):
        one.models = {"colour": ("7",), "colour_image": ("7",)}
        one.preprocessing = Preprocessing(8, 12, 8).digest
    assert _version(both, encode()) == "7"
    assert [request.model_name for request in replica.requests] == ["colour"]
    assert both.get("/models").json()["models"][0]["decoded_by"] == "gateway"


def test_readiness_asks_by_way_of_the_proxy(both, triton, replica):
    assert both.get("/readyz").status == 200
    assert len(triton.requests) == 1
    assert not replica.requests


async def _ask_at_once(gateway, image, count):
    asked = (call(gateway.app, "POST", "/classify", chunks=[image]) for _ in range(count))
    return await asyncio.gather(*asked)


def test_images_are_not_collected_for_a_server_that_caches_answers(both, replica, encode):
    replica.caches = True
    both.run(_ask_at_once(both, encode(), 6))
    assert [request.inputs[0].shape[0] for request in replica.requests] == [1] * 6


def test_a_server_that_waits_for_more_requests_gets_them(both, replica, encode):
    replica.queue_delay, all_there = 2000, threading.Barrier(4)

    def wait(_request, _context):
        all_there.wait(20)
        return [1, 0, 0]

    replica.handler = wait
    answers = both.run(_ask_at_once(both, encode(), 4))
    assert [answer.json()["version"] for answer in answers] == ["7"] * 4


def test_many_requests_at_once_are_few_for_the_replica(both, replica, encode):
    answers = both.run(_ask_at_once(both, encode(), 24))
    assert {answer.json()["version"] for answer in answers} == {"7"}
    assert sum(request.inputs[0].shape[0] for request in replica.requests) == 24
    assert max(request.inputs[0].shape[0] for request in replica.requests) <= 4  # max_batch_size
