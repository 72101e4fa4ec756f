"""Batches of the images that wait for a model."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the gateway needs the extra 'server'")

from delugeserve.serving.gateway.batches import Batches, NotAnsweredError
from delugeserve.serving.gateway.calls import Answer, Call

PIXELS = np.zeros((2, 2, 3), np.uint8)


class Model:
    """Answers a batch when it is told to; the version is the image's number in the batch."""

    def __init__(self):
        self.sent, self.answers = [], []

    async def __call__(self, jobs):
        self.sent.append(jobs)
        self.answers.append(asyncio.get_running_loop().create_future())
        await self.answers[-1]
        return [Answer("colour", str(number), ()) for number in range(len(jobs))]

    @property
    def sizes(self):
        return [len(jobs) for jobs in self.sent]


async def _settle():
    for _ in range(5):
        await asyncio.sleep(0)


def _put(batches, count, **headers):
    return [batches.put(PIXELS, 1, Call(60, headers=headers)) for _ in range(count)]


async def _leave(jobs):
    for job in reversed(jobs):
        job.cancel()
    await _settle()


def test_an_image_is_sent_at_once_and_those_that_wait_together():
    async def run():
        model = Model()
        batches = Batches(model, images=6, instances=1)
        first = _put(batches, 1)
        await _settle()
        rest = _put(batches, 4)
        await _settle()
        assert model.sizes == [1]
        model.answers[0].set_result(None)
        await _settle()
        assert model.sizes == [1, 4]
        model.answers[1].set_result(None)
        found = [(await one).version for one in first + rest]
        assert found == ["0", "0", "1", "2", "3"]

    asyncio.run(run())


def test_good_batches_are_sent_ahead_up_to_a_limit():
    async def run():
        model = Model()
        batches = Batches(model, images=4, instances=1)
        jobs = _put(batches, 30)
        await _settle()
        assert model.sizes == [1, 4, 4, 4]
        await _leave(jobs)

    asyncio.run(run())


def test_each_instance_gets_an_image_at_once():
    async def run():
        model = Model()
        jobs = _put(Batches(model, images=64, instances=3), 5)
        await _settle()
        assert model.sizes == [1, 1, 1]
        await _leave(jobs)

    asyncio.run(run())


def test_a_traced_image_is_sent_alone():
    async def run():
        model = Model()
        batches = Batches(model, images=64, instances=1)
        _put(batches, 2)
        _put(batches, 1, traceparent="00-1-1-01")
        _put(batches, 2)
        for number in range(4):
            await _settle()
            model.answers[number].set_result(None)
        await _settle()
        assert model.sizes == [1, 1, 1, 2]
        assert model.sent[2][0].call.headers

    asyncio.run(run())


def test_who_has_left_costs_nothing():
    async def run():
        model = Model()
        batches = Batches(model, images=64, instances=1)
        (sent,), waiting = _put(batches, 1), _put(batches, 2)
        await _settle()
        waiting[0].cancel()
        await _settle()
        assert not model.answers[0].cancelled()
        sent.cancel()
        await _settle()
        assert model.answers[0].cancelled()  # nobody waits for it any more
        assert model.sizes == [1, 1]
        model.answers[1].set_result(None)
        assert (await waiting[1]).version == "0"

    asyncio.run(run())


@pytest.mark.parametrize("error", [NotAnsweredError("gone"), IndexError("no output")])
def test_a_failure_ends_the_waiting_too(error):
    async def run():
        model = Model()
        batches = Batches(model, images=64, instances=1)
        jobs = _put(batches, 3)
        await _settle()
        model.answers[0].set_exception(error)
        for one in jobs:
            with pytest.raises(NotAnsweredError):
                await one
        again = _put(batches, 1)
        await _settle()
        model.answers[1].set_result(None)
        await again[0]

    asyncio.run(run())


def test_a_cancelled_request_leaves_nobody_waiting():
    async def run():
        model = Model()
        (job,) = _put(Batches(model, images=64, instances=1), 1)
        await _settle()
        model.answers[0].cancel()  # as gRPC does when it closes a connection
        with pytest.raises(NotAnsweredError):
            await job

    asyncio.run(run())
