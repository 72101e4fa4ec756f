"""From JPEG files to the network's input: plain Pillow against this package's readers.

    python benchmarks/image_decoding.py [--rounds 15] [--data FOLDER] [--image-size 224]

Needs the extra `train`, and without `--data` the extra `demo`.
"""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path

import common
import numpy as np
import torch
from PIL import Image, ImageOps

from delugeserve.data.catalogue import open_source
from delugeserve.data.imagenet import augmented_crop, centre_crop
from delugeserve.zoo import IMAGENET

METHOD = """Four photographs of scikit-image are scaled to 500 x 375 pixels and encoded as JPEG of
quality 90, 45 kB each; with --data, they are 64 training images of a data set, evenly spread.
'plain Pillow' opens one, converts it to RGB, resizes the shorter side to 8/7 of the image size
(bicubic) and crops the centre. 'test images' does the same with this package's reader; 'training
images' takes a random crop, changes its colours and flips half of them. All run in one thread and
read from memory; time is the processor time of that thread. In a round, each decodes all to warm
up, and then one after the other until its time is up."""

BASE = "plain Pillow"
_SAMPLE = 64


def photographs() -> list[bytes]:
    import skimage.data

    encoded = []
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        photo = Image.fromarray(getattr(skimage.data, name)())
        stream = io.BytesIO()
        ImageOps.fit(photo, (500, 375)).save(stream, "JPEG", quality=90)
        encoded.append(stream.getvalue())
    return encoded


def training_images(source: str) -> list[bytes]:
    """Read some training images of a data set, and print how long it takes to list all."""
    start = time.perf_counter()
    catalogue = open_source(source, val_fraction=0)
    seconds = time.perf_counter() - start
    count = sum(map(len, catalogue.images.values()))
    print(f"listed {count:,} images of {source} in {seconds:.2f} s")
    images = catalogue.index("train")
    chosen = np.linspace(0, len(images) - 1, min(_SAMPLE, len(images))).astype(int)
    encoded = [images[index] for index in chosen.tolist()]
    return [item.read_bytes() if isinstance(item, Path) else bytes(item) for item in encoded]


def plain(encoded: bytes, size: int) -> np.ndarray:
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    scale = size * 8 / 7 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)))
    left, upper = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, upper, left + size, upper + size)))


def images_per_second(
    decode: Callable[[bytes], object], images: Sequence[bytes], seconds: float
) -> float:
    for image in images:
        decode(image)  # warm up: the contestant before has filled the caches
    count, start = 0, time.thread_time()
    for image in cycle(images):
        decode(image)
        count += 1
        if (elapsed := time.thread_time() - start) >= seconds:
            break
    return count / elapsed


def main() -> None:
    parser = common.options(__doc__, rounds=15, seconds=0.5)
    parser.add_argument("--data", help="a data set; by default four photographs of scikit-image")
    parser.add_argument("--image-size", type=int, default=224, help="in pixels (default: 224)")
    chosen = common.start(parser, METHOD)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    size = chosen.image_size
    task = dataclasses.replace(IMAGENET, image_size=size, resize_size=round(size * 8 / 7))
    decoders = {
        BASE: partial(plain, size=size),
        "test images": lambda image: centre_crop(image, "", task),
        "training images": lambda image: augmented_crop(image, "", task, rng),
    }
    images = training_images(chosen.data) if chosen.data else photographs()
    contestants = {
        name: partial(images_per_second, decode, images, chosen.seconds)
        for name, decode in decoders.items()
    }
    title = f"{chosen.data or '500 x 375 JPEGs'} at {size} x {size}"
    samples = common.interleave(title, contestants, chosen.rounds)
    rows = [
        (name, common.spread(samples[name], ".0f"), common.ratio(samples, name, BASE))
        for name in contestants
    ]
    common.show(title, ("", "images/s, one core", f"speed over {BASE}"), rows)
    common.finish(chosen, [{"unit": "images/s", "samples": samples}])


if __name__ == "__main__":
    main()
