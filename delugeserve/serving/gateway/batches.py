"""Send images to a model: at once while few requests are in flight, otherwise in batches."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from delugeserve.serving.gateway.calls import Answer, Call
from delugeserve_client.preprocessing import Pixels


class NotAnsweredError(Exception):
    """The replica did not answer, or not with classes; another may."""


@dataclass(eq=False)
class Job:
    """An image on its way through a model.

    Attributes:
        pixels: uint8 ``[H, W, 3]``.
        top_k: number of classes wanted.
        call: what goes with it.
        answer: its result; cancelled if nobody waits for it any more.
    """

    pixels: Pixels
    top_k: int
    call: Call
    answer: asyncio.Future[Answer] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


_GOOD = 8  # images in a request; more save little
AHEAD = 4
"""Requests in flight for each instance, if their batches are good."""

Send = Callable[[Sequence[Job]], Awaitable[Sequence[Answer]]]


class Batches:
    """Forms batches of the images that wait for a model while it is busy.

    An image is sent at once while an instance of the model is free. Otherwise it would wait in the
    server's queue; here it waits for others, as one request of several images costs much less. So
    that the server's queue does not run dry, good batches are sent ahead. An image that is traced
    is sent alone, with its trace.

    Args:
        send: sends a batch, and returns an answer for each of its jobs.
        images: largest number of images in a request.
        instances: number of requests in flight from which on images wait.
    """

    def __init__(self, send: Send, images: int, instances: int) -> None:
        self._send, self._images, self._instances = send, images, instances
        self._waiting: deque[Job] = deque()
        self._running: set[asyncio.Task[None]] = set()

    def put(self, pixels: Pixels, top_k: int, call: Call) -> asyncio.Future[Answer]:
        """Return the future classes of an image; NotAnsweredError if there will be none."""
        job = Job(pixels, top_k, call)
        self._waiting.append(job)
        self._start()
        return job.answer

    def _start(self) -> None:
        running, good = len(self._running), len(self._waiting) >= min(_GOOD, self._images)
        if running >= self._instances * (AHEAD if good else 1):
            return
        jobs = self._take()
        if not jobs:
            return
        sending = asyncio.ensure_future(self._run(jobs))
        self._running.add(sending)
        sending.add_done_callback(self._ended)

        def left(_: asyncio.Future[Answer]) -> None:
            if all(job.answer.cancelled() for job in jobs):
                sending.cancel()

        for job in jobs:
            job.answer.add_done_callback(left)

    def _take(self) -> list[Job]:
        jobs: list[Job] = []
        while self._waiting and len(jobs) < self._images:
            alone = bool(self._waiting[0].call.headers.get("traceparent"))
            if alone and jobs:
                break
            job = self._waiting.popleft()
            if not job.answer.done():
                jobs.append(job)
                if alone:
                    break
        return jobs

    def _ended(self, sending: asyncio.Task[None]) -> None:
        self._running.discard(sending)
        self._start()

    async def _run(self, jobs: Sequence[Job]) -> None:
        try:
            answers = await self._send(jobs)
        except asyncio.CancelledError:  # by gRPC too, and then somebody still waits
            _fail(jobs, NotAnsweredError("cancelled"))
            raise
        except Exception as error:
            failure = error if isinstance(error, NotAnsweredError) else NotAnsweredError(str(error))
            # Those that wait would fail as well, after as long.
            _fail((*jobs, *self._waiting), failure)
            self._waiting.clear()
            return
        for job, answer in zip(jobs, answers, strict=True):
            if not job.answer.done():
                job.answer.set_result(answer)


def _fail(jobs: Sequence[Job], failure: NotAnsweredError) -> None:
    for job in jobs:
        if not job.answer.done():
            job.answer.set_exception(failure)
