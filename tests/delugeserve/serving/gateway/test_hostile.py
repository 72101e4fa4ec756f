"""Requests that damage or stall a server that is not careful."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import re
from pathlib import Path

import pytest
from asgi import call

BENCHMARKS = Path(__file__).parents[4] / "benchmarks"
MIB = 2**20


@pytest.fixture
def hostile(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("hostile")


def test_the_same_seed_gives_the_same_requests(hostile):
    target = hostile.Target("colour", large=False)

    def first(seed):
        return list(itertools.islice(hostile.hostile_requests(seed, target), 30))

    assert first(3) == first(3)
    assert first(3) != first(4)
    assert {request.protocol for request in first(3)} == {"classify", "http", "grpc"}


@pytest.mark.slow
def test_each_gets_its_error_and_neighbours_are_answered(gateway, encode, hostile):
    # Image.open keeps its own limit for images; a smaller one keeps the test small.
    gateway.limit(request_bytes=2 * MIB, image_bytes=2 * MIB)
    target = hostile.Target("colour", largest=2 * MIB)
    requests = itertools.islice(hostile.hostile_requests(7, target, ["classify"]), 150)
    good = encode("red")

    async def send(request):
        answer = await call(
            gateway.app, request.method, request.path, headers=request.headers, chunks=request.body
        )
        neighbour = await call(gateway.app, "POST", "/classify?model=colour", chunks=[good])
        return answer, neighbour

    async def send_all():
        for group in iter(lambda: list(itertools.islice(requests, 8)), []):
            for request, (answer, neighbour) in zip(
                group, await asyncio.gather(*map(send, group)), strict=True
            ):
                wrong = (request.kind, answer.status, answer.body[:300])
                assert answer.status in request.expected, wrong
                assert answer.headers["content-type"] == "application/json", wrong
                if answer.status != 200:
                    assert {"error", "remedy"} <= set(answer.json()), wrong
                text = answer.body.decode()
                assert not re.search(
                    r"Traceback|File \"|/work|/home|site-packages|0x[0-9a-f]{8}", text
                ), wrong
                assert neighbour.status == 200, (request.kind, neighbour.body)

    gateway.run(send_all())
