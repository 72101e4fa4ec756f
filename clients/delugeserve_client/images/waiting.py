"""Images read without blocking an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
from collections.abc import AsyncIterable, Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from delugeserve_client.images.inputs import AnyImage, name_of
from delugeserve_client.images.reading import Reader, Ready, is_quick

AT_HAND = (list, tuple, np.ndarray)  # iterating over them waits for nothing


class Feed:
    """Images of an asynchronous iterable, for a thread that iterates over them.

    They are taken in one task of the running event loop, a few ahead.

    Args:
        images: the images.
        ahead: how many are taken before they are wanted.
    """

    def __init__(self, images: AsyncIterable[AnyImage], ahead: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(ahead)
        self._taken: queue.SimpleQueue[tuple[AnyImage] | BaseException] = queue.SimpleQueue()
        self._task = self._loop.create_task(self._feed(images))

    def __iter__(self) -> Iterator[AnyImage]:
        while isinstance(one := self._taken.get(), tuple):
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._room.release)
            yield one[0]
        if not isinstance(one, StopAsyncIteration):
            raise one

    def close(self) -> None:
        """Take no more images, and let the thread end."""
        self._task.cancel()
        self._taken.put(StopAsyncIteration())  # the task may not run any more

    async def _feed(self, images: AsyncIterable[AnyImage]) -> None:
        end: BaseException = StopAsyncIteration()
        try:
            async for image in images:
                await self._room.acquire()
                self._taken.put((image,))
        except Exception as error:  # of the caller's iterable
            end = error
        finally:
            self._taken.put(end)


async def read_few(
    reader: Reader, images: Collection[Any], first: int, encoded: bool
) -> list[Ready]:
    """Read a few images: small arrays here, and others in threads.

    Args:
        reader: reads them.
        images: the images.
        first: number of the first, for the names of those without one.
        encoded: whether to leave the contents of files as they are.
    """
    found: list[Ready | asyncio.Future[Ready]] = []
    for number, image in enumerate(images, first):
        source = name_of(image, number)
        if is_quick(image, len(images), encoded=encoded):
            found.append(reader.read(image, source, encoded=encoded))
        else:
            found.append(asyncio.wrap_future(reader.submit(image, source, encoded=encoded)))
    await asyncio.gather(*(one for one in found if not isinstance(one, Ready)))
    return [one if isinstance(one, Ready) else one.result() for one in found]


def call_in(
    thread: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any
) -> asyncio.Future[Any]:
    """Call a function in a thread, in this task's context."""
    context = contextvars.copy_context()
    return asyncio.get_running_loop().run_in_executor(thread, context.run, function, *arguments)


def call_here(
    _: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any
) -> asyncio.Future[Any]:
    """Call a function at once."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    try:
        future.set_result(function(*arguments))
    except Exception as error:
        future.set_exception(error)
    return future
