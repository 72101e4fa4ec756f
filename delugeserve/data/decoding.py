"""Decode the images of a split into memory."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from delugeserve.data.encoded import Encoded, EncodedImages, PixelStore
from delugeserve.data.splits import Size, SizeRange
from delugeserve.data.unreadable import OnUnreadable, UnreadableImages
from delugeserve.errors import DatasetError, UnreadableImageError
from delugeserve.system.hardware import usable_cores
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve_client.errors import ImageError
from delugeserve_client.preprocessing import Preprocessing, decode

_AT_ONCE = 64
_LARGEST_SHARE = 0.5
_CGROUP_FILES = ("memory.max", "memory.current")


@dataclass(frozen=True)
class Decoded:
    """Images in memory.

    Attributes:
        images: uint8 ``[N, H, W, 3]``, RGB.
        rows: int64 ``[N]``, each image's index in the split.
        sizes: sizes of the images before resizing.
        unreadable: names of the images that could not be decoded and were left out.
    """

    images: NDArray[np.uint8]
    rows: NDArray[np.int64]
    sizes: SizeRange | None
    unreadable: tuple[str, ...]


def decode_all(
    split: EncodedImages,
    image_size: int,
    resize_size: int,
    on_unreadable: OnUnreadable,
    progress: Progress = NO_PROGRESS,
) -> Decoded:
    """Decode all images of a split, resized and cropped as the client does.

    Training images then look like the ones that are classified later. An image of the network's own
    size keeps its pixels.

    Args:
        split: the images.
        image_size: height and width of the network's input, in pixels.
        resize_size: length of the shorter side before the centre crop, in pixels.
        on_unreadable: whether an image that cannot be decoded is an error or is left out.
        progress: receives the number of images read.

    Raises:
        DatasetError: the images do not fit into this machine's memory, or a file is damaged.
        UnreadableImageError: an image cannot be decoded.
    """
    store, count = split.store, len(split)
    if isinstance(store, PixelStore) and store.pixels.shape[1:3] == (image_size, image_size):
        sizes = SizeRange.of([(image_size, image_size)] if count else [])
        return Decoded(store.pixels[split.rows], np.arange(count), sizes, ())
    images = _allocate(split, image_size)
    found: list[Size | None] = [None] * count
    unreadable = UnreadableImages(on_unreadable)

    def decode_rows(start: int) -> int:
        stop = min(start + _AT_ONCE, count)
        for row in range(start, stop):
            try:
                images[row], found[row] = decode_one(split[row], "", image_size, resize_size)
            except UnreadableImageError:
                name = split.name(row)  # takes time, and only errors need it
                with unreadable.collect(row, name):
                    decode_one(split[row], name, image_size, resize_size)
        return stop - start

    progress.stage("read images", count)
    with ThreadPoolExecutor(usable_cores()) as pool:
        try:
            for done in pool.map(decode_rows, range(0, count, _AT_ONCE)):
                progress.advance(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    rows = np.delete(np.arange(count), unreadable.rows)
    return Decoded(
        images if len(rows) == count else images[rows],
        rows,
        SizeRange.of(size for size in found if size is not None),
        unreadable.names,
    )


def decode_one(
    image: Encoded, name: str, image_size: int, resize_size: int
) -> tuple[NDArray[np.uint8], Size]:
    """Decode an image of any size, resize it and crop its centre, as the client does.

    Args:
        image: content or path of an image file, or pixels.
        name: the image's name in errors.
        image_size: height and width of the result, in pixels.
        resize_size: length of the shorter side before the crop, in pixels.

    Returns:
        uint8 ``[H, W, 3]``, RGB, and the image's width and height before.

    Raises:
        UnreadableImageError: the image cannot be decoded.
    """
    fitting = Preprocessing(image_size, image_size, resize_size)
    size = (0, 0)

    def scale(width: int, height: int) -> float:
        nonlocal size
        size = (width, height)
        return fitting.scale(width, height)

    try:
        # As an array, without the metadata that would turn it upright a second time.
        pixels = np.asarray(decode(image, name, scale))
        if not isinstance(image, (bytes, Path)):
            size = (pixels.shape[1], pixels.shape[0])
        if pixels.shape[:2] != (image_size, image_size) or size != (image_size, image_size):
            pixels = fitting(pixels, name)
    except ImageError as error:
        raise UnreadableImageError(error.problem, error.remedy, name=name) from error
    return pixels, size


def available_memory() -> int:
    """Return the memory in bytes that programs can still take, on this machine or in its container.

    Without figures from Linux it is all of the machine's memory.
    """
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        facts = dict(line.split(":", 1) for line in lines)
        found.append(int(facts["MemAvailable"].split()[0]) * 1024)
        limit, used = (Path("/sys/fs/cgroup", name).read_text("ascii") for name in _CGROUP_FILES)
        found.append(int(limit) - int(used))  # a limit of "max" is none
    except (OSError, ValueError, KeyError, IndexError):
        pass
    return min(found)


def fits_memory(images: int, image_size: int) -> bool:
    """Return whether images fit into half of the memory that is available on this machine.

    Args:
        images: their number.
        image_size: height and width in pixels.
    """
    return images * image_size**2 * 3 <= _LARGEST_SHARE * available_memory()


def _allocate(split: EncodedImages, image_size: int) -> NDArray[np.uint8]:
    count = len(split)
    wanted = count * image_size**2 * 3
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if wanted > available:
        raise DatasetError(
            f"{split.source} has {count:,} images, which need {wanted / 2**30:.0f} GiB of memory;"
            f" this machine has {available / 2**30:.0f} GiB.",
            "Read fewer images with --limit.",
            path=split.source,
            expected=available,
            found=wanted,
        )
    return np.empty((count, image_size, image_size, 3), np.uint8)
