"""Images read and decoded in threads, in order, a few ahead of those that are wanted."""

from __future__ import annotations

import io
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

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
_TRIED = 4  # images
_MOST = 8  # threads; Pillow's decoders then fill the memory's bandwidth
_DOWNLOADS = 16


@dataclass(frozen=True)
class Ready:
    """An image as a request carries it.

    Attributes:
        source: the image's name.
        content: uint8 ``[H, W, 3]``, or the content of its file.
        error: why it cannot be read, or None.
    """

    source: str
    content: Content | None
    error: ImageError | None = None


class Reader:
    """Reads images.

    Args:
        preprocessing: how an image becomes an input.
        max_pixels: largest image, in pixels; None for Pillow's limit alone.
    """

    def __init__(self, preprocessing: Preprocessing, max_pixels: int | None = None) -> None:
        self._preprocessing, self._max_pixels = preprocessing, max_pixels
        self._cores = _cores()
        self._workers: ThreadPoolExecutor | None = None
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

    def stream(
        self, images: Iterable[AnyImage], ahead: int, encoded: Callable[[], bool], first: int = 1
    ) -> Iterator[Ready]:
        """Read images in order.

        Args:
            images: taken one by one, in the thread that calls.
            ahead: number of images to read before they are wanted.
            encoded: whether to leave the contents of files as they are; asked for each image.
            first: number of the first image, for the names of those without one.
        """
        window: deque[Ready | Future[Ready]] = deque()
        threads = self._cores > 1
        spent, counted = 0.0, 0
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
            source, as_file = name_of(image, number), encoded()
            if is_url(image) or (threads and counted >= _TRIED):
                window.append(self._submit(image, source, as_file))
            else:
                start = time.perf_counter()
                window.append(self.read(image, source, encoded=as_file))
                spent, counted = spent + time.perf_counter() - start, counted + 1
                if counted == _TRIED:
                    threads = threads and spent / counted > _WORTH_A_THREAD
            while window and (len(window) > ahead or not isinstance(window[0], Future)):
                yield _wait(window.popleft())
        while window:
            yield _wait(window.popleft())
        if failure is not None:
            raise failure

    def close(self) -> None:
        """End the threads."""
        self._closed = True
        if self._workers is not None:
            self._workers.shutdown(wait=False, cancel_futures=True)

    def _submit(self, image: AnyImage, source: str, encoded: bool) -> Future[Ready]:
        if self._workers is None:
            count = _DOWNLOADS if is_url(image) else min(_MOST, self._cores)
            self._workers = ThreadPoolExecutor(count, "delugeserve-images")
        try:
            return self._workers.submit(self.read, image, source, encoded=encoded)
        except RuntimeError:
            raise closed() from None

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


def _wait(one: Ready | Future[Ready]) -> Ready:
    try:
        return one.result() if isinstance(one, Future) else one
    except CancelledError:
        raise closed() from None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
