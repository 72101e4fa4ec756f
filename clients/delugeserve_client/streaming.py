"""How a stream of images goes through a classifier: in parts, each with its requests in flight.

Both classifiers share this; nothing here waits for a server.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from delugeserve_client.batching import Chunk
from delugeserve_client.configuration import Decode
from delugeserve_client.core.decoding import DecodingChoice, Place
from delugeserve_client.errors import ForkedClassifier
from delugeserve_client.images.inputs import AnyImage, is_encoded
from delugeserve_client.transports.messages import Request

_SECONDS_TO_TAKE = 0.2
_MOST_BYTES = 2**28


class _Answer(Protocol):
    """A future of threads or of asyncio."""

    def done(self) -> bool:
        """Return whether there is an answer."""


Answer = TypeVar("Answer", bound=_Answer)


@dataclass(frozen=True)
class Part:
    """Images of a stream that are decoded in one place.

    Attributes:
        images: the images.
        first: number of the first in the stream, from 1.
        place: where they are decoded.
        is_trial: whether the time that they take is wanted.
        full: whether each request waits until it is full, however slowly images come.
    """

    images: Iterable[AnyImage]
    first: int
    place: Place
    is_trial: bool = False
    full: bool = False


@dataclass(frozen=True)
class AskServer:
    """Asks whether the server takes encoded images."""


Step: TypeAlias = "Part | AskServer"


def parts(
    images: Iterable[AnyImage],
    size: int,
    decode: Decode,
    choice: DecodingChoice,
    *,
    full: bool = False,
) -> Generator[Step, Any, None]:
    """Yield a stream in parts: trials of where to decode, as long as they are wanted, and the rest.

    The generator is sent what each step led to: whether the server takes encoded images, or the
    seconds of a trial. It takes images from their iterable while it runs.

    Args:
        images: the stream.
        size: number of images in a request.
        decode: where the caller wants images to be decoded.
        choice: where ``auto`` decodes them.
        full: whether each request waits until it is full.
    """
    if decode != "auto":
        yield Part(images, 1, decode, full=full)
        return
    if isinstance(images, Sized) and len(images) < size:
        yield Part(images, 1, choice.place, full=full)
        return
    first, source = 1, iter(images)
    while (trial := choice.next_trial) is not None:
        block, source = take(source, size)
        suitable = len(block) == size and all(map(is_encoded, block))
        if not suitable or not (yield AskServer()):
            source = itertools.chain(block, source)
            break
        choice.measured(trial, size, (yield Part(block, first, trial, is_trial=True, full=True)))
        first += size
    yield Part(source, first, choice.place, full=full)


def take(
    images: Iterator[AnyImage], count: int, seconds: float = _SECONDS_TO_TAKE
) -> tuple[list[AnyImage], Iterator[AnyImage]]:
    """Return the next images, and an iterator of the rest.

    If the images' own iterator fails, those before are returned, and the rest raises its error.

    Args:
        images: the images.
        count: how many to take.
        seconds: time after which fewer are returned.
    """
    block: list[AnyImage] = []
    until = time.monotonic() + seconds
    try:
        for image in itertools.islice(images, count):
            block.append(image)
            if time.monotonic() > until:
                break
    except Exception as error:
        return block, _failing(error)
    return block, images


def _failing(error: Exception) -> Iterator[AnyImage]:
    raise error
    yield


class Window(Generic[Answer]):
    """The chunks of a part whose requests are in flight, in order."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._sent: deque[tuple[Chunk, Answer | None, int]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._sent)

    def add(self, chunk: Chunk, request: Request | None, answer: Answer | None) -> None:
        """Add a chunk, and the answer to come; None if nothing was sent."""
        volume = 0 if request is None else request.nbytes
        self._bytes += volume
        self._sent.append((chunk, answer, volume))

    def has_room(self, requests: int) -> bool:
        """Return whether another request may be made.

        Args:
            requests: their largest number; there is a limit to their bytes as well.
        """
        return len(self._sent) < requests and self._bytes < _MOST_BYTES

    def is_idle(self) -> bool:
        """Return whether no request is in flight, as far as is known. Any thread may ask."""
        try:
            _, answer, _ = self._sent[-1]
        except IndexError:
            return True
        return answer is None or answer.done()

    @property
    def is_answered(self) -> bool:
        """Whether the first chunk has its answer."""
        return bool(self._sent) and (self._sent[0][1] is None or self._sent[0][1].done())

    @property
    def answer(self) -> Answer | None:
        """The answer to the first chunk; None if there is none."""
        return self._sent[0][1] if self._sent else None

    def pop(self) -> Chunk:
        """Return the first chunk, and forget it and its answer."""
        chunk, _, volume = self._sent.popleft()
        self._bytes -= volume
        return chunk

    def check_process(self) -> None:
        """Check that this is the process that sent the requests.

        Raises:
            ForkedClassifier: it is a fork of that process, where no answer ever comes.
        """
        if self._pid != os.getpid():
            raise ForkedClassifier(
                f"The stream was begun in process {self._pid}, and its requests do not survive a "
                "fork.",
                "Begin a new stream in each process.",
                pid=self._pid,
            )

    def cancel(self, cancel: Callable[[Answer], object]) -> None:
        """Cancel all requests, unless this is a fork of the process that sent them."""
        if self._pid == os.getpid():
            for _, answer, _ in self._sent:
                if answer is not None:
                    cancel(answer)


def never() -> bool:
    """Return False: requests are sent when they are full."""
    return False
