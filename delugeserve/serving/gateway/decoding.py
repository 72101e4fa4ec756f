"""Decode images in a few threads of this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor

from delugeserve.serving.gateway.errors import from_decoder
from delugeserve_client.errors import ImageError
from delugeserve_client.preprocessing import Pixels, Preprocessing, decode

# Larger images are decoded one at a time, as each may take a gigabyte of memory.
_LARGE = 2**25  # pixels


class Decoder:
    """Turns encoded images into the input of a model, in as many threads as there are cores."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)), "decode")
        self._large = threading.Lock()

    async def __call__(self, preprocessing: Preprocessing, image: bytes) -> Pixels:
        """Return the pixels of an encoded image.

        Args:
            preprocessing: what the model's input is made by.
            image: the bytes of an image file.

        Raises:
            RequestError: it is not an image, or has too many pixels.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._decode, preprocessing, image)
        except ImageError as error:
            raise from_decoder(str(error)) from None

    def close(self) -> None:
        """Decode no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _decode(self, preprocessing: Preprocessing, image: bytes) -> Pixels:
        with contextlib.ExitStack() as stack:

            def scale(width: int, height: int) -> float:
                if width * height > _LARGE:
                    stack.enter_context(self._large)
                return preprocessing.scale(width, height)

            return preprocessing.fit(decode(image, "the image", scale))
