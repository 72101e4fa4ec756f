"""From JPEG files to the network's input: plain Pillow against this package's readers.

    python benchmarks/image_decoding.py [--rounds 15]

Needs the extras `train` and `demo`.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle

import common
import numpy as np
import skimage.data
import torch
from PIL import Image, ImageOps

from delugeserve.data.imagenet import augmented_crop, centre_crop
from delugeserve.zoo import IMAGENET

METHOD = """Four photographs of scikit-image are scaled to 500 x 375 pixels and encoded as JPEG of
quality 90, 45 kB each. 'plain Pillow' opens one, converts it to RGB, resizes the shorter side to
256 (bicubic) and crops the centre 224 x 224 pixels. 'test images' does the same with this
package's reader; 'training images' takes a random crop, changes its colours and flips half of
them. All run in one thread and read from memory. In a round, each decodes the four to warm up, and
then one after the other until its time is up."""

BASE = "plain Pillow"


def photographs() -> list[bytes]:
    encoded = []
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        photo = Image.fromarray(getattr(skimage.data, name)())
        stream = io.BytesIO()
        ImageOps.fit(photo, (500, 375)).save(stream, "JPEG", quality=90)
        encoded.append(stream.getvalue())
    return encoded


def plain(encoded: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(encoded)).convert("RGB").resize((341, 256))
    return np.asarray(image.crop((58, 16, 282, 240)))


def images_per_second(
    decode: Callable[[bytes], object], images: Sequence[bytes], seconds: float
) -> float:
    for image in images:
        decode(image)  # warm up: the contestant before has filled the caches
    count, start = 0, time.perf_counter()
    for image in cycle(images):
        decode(image)
        count += 1
        if (elapsed := time.perf_counter() - start) >= seconds:
            break
    return count / elapsed


def main() -> None:
    parser = common.options(__doc__, rounds=15, seconds=0.5)
    chosen = common.start(parser, METHOD)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    decoders = {
        BASE: plain,
        "test images": lambda image: centre_crop(image, "", IMAGENET),
        "training images": lambda image: augmented_crop(image, "", IMAGENET, rng),
    }
    images = photographs()
    contestants = {
        name: partial(images_per_second, decode, images, chosen.seconds)
        for name, decode in decoders.items()
    }
    samples = common.interleave("500 x 375 JPEGs", contestants, chosen.rounds)
    rows = [
        (name, common.spread(samples[name], ".0f"), common.ratio(samples, name, BASE))
        for name in contestants
    ]
    common.show("500 x 375 JPEGs", ("", "images/s, one core", f"speed over {BASE}"), rows)
    common.finish(chosen, [{"unit": "images/s", "samples": samples}])


if __name__ == "__main__":
    main()
