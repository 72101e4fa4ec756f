"""Images read and decoded in threads, in order, a few ahead of those that are wanted."""

from __future__ import annotations

import io
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import Image

from delugeserve_client.errors import ImageError
from delugeserve_client.explaining import closed
from delugeserve_client.formats import decodable_formats
from delugeserve_client.images.inputs import (
    AnyImage,
    is_encoded,
    name_of,
    read_encoded,
    resolve,
)
from delugeserve_client.images.urls import is_url
from delugeserve_client.preprocessing import Pixels, Preprocessing, decode

Content: TypeAlias = "Pixels | bytes"

# Threads help where an image takes longer to decode than to hand over.
_WORTH_A_THREAD = 0.0005  # seconds
_TRIED, _KEPT = 4, 256  # images that are timed, and those for which the outcome then holds
_QUICK = 2**19  # bytes of arrays
_MOST = 8  # threads; Pillow's decoders then fill the memory's bandwidth
_DOWNLOADS = 16


@dataclass(eq=False)
class Ready:
    """An image as a request carries it.

    Attributes:
        source: the image's name.
        content: uint8 ``[H, W, 3]``, or the content of its file; None once it is sent.
        error: why it cannot be read, or None.
    """

    source: str
    content: Content | None
    error: ImageError | None = None


class _Pace:
    """Decides from time to time whether images are worth threads."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._left = 0
        self._seconds: list[float] = []

    def next_in_thread(self) -> bool:
        """Return whether to read the next image in a thread."""
        self._left -= 1
        return self._left >= 0

    def read(self, ready: Ready, seconds: float) -> None:
        """Count an image that was read at once."""
        if ready.error is not None and seconds < _WORTH_A_THREAD:
            return  # it tells nothing of the others
        self._seconds.append(seconds)
        if len(self._seconds) == _TRIED:
            rest = sum(self._seconds) - max(self._seconds)  # one may have met a pause
            if self._cores > 1 and rest / (_TRIED - 1) > _WORTH_A_THREAD:
                self._left = _KEPT
            self._seconds.clear()


class Reader:
    """Reads images.

    Args:
        preprocessing: how an image becomes an input.
        max_pixels: largest image, in pixels; None for Pillow's limit alone.
    """

    def __init__(self, preprocessing: Preprocessing, max_pixels: int | None = None) -> None:
        self._preprocessing, self._max_pixels = preprocessing, max_pixels
        self._cores = _cores()
        self._lock = threading.Lock()
        self._workers: dict[str, ThreadPoolExecutor] = {}
        self._closed = False

    def read(self, image: AnyImage, source: str, *, encoded: bool) -> Ready:
        """Read one image.

        Args:
            image: the image.
            source: its name.
            encoded: leave the content of a file as it is.
        """
        try:
            if encoded and is_encoded(image):
                content = read_encoded(image, source)
                self._check_encoded(content, source)
                return Ready(source, content)
            return Ready(source, self._decode(image, source))
        except ImageError as error:
            return Ready(source, None, error)

    def submit(self, image: AnyImage, source: str, *, encoded: bool) -> Future[Ready]:
        """Read one image in a thread; see :meth:`read`.

        Raises:
            ClassifierClosed: the reader is closed.
        """
        kind, count = ("files", min(_MOST, self._cores))
        if is_url(image):  # a server that hangs must not keep files from being read
            kind, count = ("downloads", _DOWNLOADS)
        with self._lock:
            if self._closed:
                raise closed()
            if kind not in self._workers:
                self._workers[kind] = ThreadPoolExecutor(count, f"delugeserve-{kind}")
            return self._workers[kind].submit(self._read, image, source, encoded)

    def stream(
        self, images: Iterable[AnyImage], ahead: int, encoded: bool, first: int = 1
    ) -> Iterator[Ready]:
        """Read images in order.

        Args:
            images: taken one by one, in the thread that calls.
            ahead: number of images to read before they are wanted.
            encoded: whether to leave the contents of files as they are.
            first: number of the first image, for the names of those without one.
        """
        window: deque[Ready | Future[Ready]] = deque()
        pace = _Pace(self._cores)
        failure: Exception | None = None
        numbered = enumerate(images, start=first)
        while True:
            try:
                number, image = next(numbered)
            except StopIteration:
                break
            except Exception as error:  # of the caller's iterable: what it gave before is read
                failure = error
                break
            source = name_of(image, number)
            if is_url(image) or pace.next_in_thread():
                window.append(self.submit(image, source, encoded=encoded))
            else:
                start = time.perf_counter()
                ready = self.read(image, source, encoded=encoded)
                pace.read(ready, time.perf_counter() - start)
                window.append(ready)
            while window and (len(window) > ahead or _is_read(window[0])):
                yield _wait(window.popleft())
        while window:
            yield _wait(window.popleft())
        if failure is not None:
            raise failure

    def close(self) -> None:
        """End the threads."""
        with self._lock:
            self._closed = True
            for workers in self._workers.values():
                workers.shutdown(wait=False)

    def _read(self, image: AnyImage, source: str, encoded: bool) -> Ready:
        if self._closed:
            raise closed()
        return self.read(image, source, encoded=encoded)

    def _decode(self, image: AnyImage, source: str) -> Pixels:
        found = resolve(image, source)
        limit = self._max_pixels
        if limit is None:
            return self._preprocessing(found, source)

        def scale(width: int, height: int) -> float:
            self._check(width, height, source)
            return self._preprocessing.scale(width, height)

        rgb = decode(found, source, scale)
        if not is_encoded(image):
            self._check(*rgb.size, source)
        return self._preprocessing.fit(rgb)

    def _check_encoded(self, content: bytes, source: str) -> None:
        if self._max_pixels is None:
            return
        try:
            with Image.open(io.BytesIO(content), formats=decodable_formats()) as image:
                size = image.size
        except Exception:  # the server finds out what is wrong with it
            return
        self._check(*size, source)

    def _check(self, width: int, height: int, source: str) -> None:
        if self._max_pixels is not None and width * height > self._max_pixels:
            raise ImageError(
                f"{source} has {width * height:,} pixels, more than the {self._max_pixels:,} "
                "allowed.",
                "Scale it down, or allow more pixels.",
                source=source,
            )


def is_quick(image: AnyImage, count: int, *, encoded: bool) -> bool:
    """Return whether so many images of the kind of this one are read in about a millisecond."""
    if isinstance(image, np.ndarray):
        return image.nbytes * count <= _QUICK
    return encoded and isinstance(image, bytes)


def _is_read(one: Ready | Future[Ready]) -> bool:
    return one.done() if isinstance(one, Future) else True


def _wait(one: Ready | Future[Ready]) -> Ready:
    return one.result() if isinstance(one, Future) else one


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
