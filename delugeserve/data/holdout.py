"""A part of the training images that serves as validation split."""

from __future__ import annotations

import hashlib

import numpy as np

from delugeserve.data.encoded import EncodedImages


def hold_out(
    images: EncodedImages, fraction: float, seed: int
) -> tuple[EncodedImages, EncodedImages]:
    """Divide images into those to train on and those to validate on, class by class.

    Each image has a place in a random order that depends on the seed and its name alone; the first
    of each class are held out. So most images stay in their part when others are added.

    Args:
        images: labelled images.
        fraction: part of each class to hold out, rounded to the nearest number of images, with at
            least one image of each class that has two or more.
        seed: selects other images.

    Returns:
        The images to train on and the images held out, both in their order.
    """
    places = [
        hashlib.blake2b(f"{seed}\0{key}".encode(errors="surrogateescape"), digest_size=8).digest()
        for key in map(images.store.key, images.rows.tolist())
    ]
    order = np.argsort(np.frombuffer(b"".join(places), ">u8"), kind="stable")
    held = np.zeros(len(images), bool)
    for label in range(len(images.class_names)):
        members = order[images.labels[order] == label]
        count = max(round(fraction * len(members)), int(len(members) > 1)) if fraction else 0
        held[members[:count]] = True
    return images.select(np.flatnonzero(~held)), images.select(np.flatnonzero(held))
