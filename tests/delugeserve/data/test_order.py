"""The order in which images are read."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delugeserve.data.datasets import index_images
from delugeserve.data.encoded import NEARBY, EncodedImages
from delugeserve.data.order import EpochOrder, shuffle_groups, shuffle_nearby
from delugeserve.zoo import IMAGENET

pytest.importorskip("pyarrow")

TWO_CLASSES = dataclasses.replace(IMAGENET, class_names=IMAGENET.class_names[:2])


@given(
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=60).filter(any),
    batch_size=st.integers(1, 600),
    seed=st.integers(0, 2**31),
)
def test_every_image_occurs_once_in_the_order(sizes, batch_size, seed):
    starts, count, rng = np.cumsum([0, *sizes[:-1]]), sum(sizes), np.random.default_rng(seed)
    order = shuffle_groups(starts, count, rng)
    for start, size in zip(starts, sizes, strict=True):
        (place,) = np.flatnonzero(order == start) if size else [0]
        assert order[place : place + size].tolist() == list(range(start, start + size))
    shuffled = shuffle_nearby(order, batch_size, rng)
    assert np.sort(shuffled).tolist() == list(range(count))


def orders(images: EncodedImages, training: bool, replicas: int, epoch: int) -> list[list[int]]:
    found = []
    for rank in range(replicas):
        order = EpochOrder(
            images, training=training, batch_size=8, seed=3, num_replicas=replicas, rank=rank
        )
        order.set_epoch(epoch)
        draws = list(order)
        assert {draw.epoch for draw in draws} == {epoch}
        assert len(order) == len(draws)
        found.append([draw.image for draw in draws])
    return found


@pytest.mark.parametrize("layout", ["folder", "parquet"])
@pytest.mark.parametrize("replicas", [1, 2, 7])
def test_processes_share_the_images(tmp_path, write_tiny_imagenet, layout, replicas):
    write_tiny_imagenet(tmp_path, layout)
    images = index_images(tmp_path, "train", TWO_CLASSES)
    first, again, second = (orders(images, True, replicas, epoch) for epoch in (0, 0, 1))
    assert first == again != second
    assert {len(order) for order in first} == {60 // replicas}
    together = [image for order in first for image in order]
    assert len(set(together)) == len(together)
    tested = orders(images, False, replicas, 5)
    assert [image for order in tested for image in order] == list(range(60))


@pytest.mark.parametrize(("workers", "reads"), [(1, 1), (2, 1), (3, 3), (4, 1), (8, 2), (12, 3)])
def test_row_groups_are_read_a_few_times_an_epoch(workers, reads):
    count, size, batch_size = 100_000, 100, 256
    starts, rng = np.arange(0, count, size), np.random.default_rng(0)
    order = shuffle_nearby(shuffle_groups(starts, count, rng), batch_size, rng)
    misses = 0
    for worker in range(workers):
        row_group = functools.lru_cache(NEARBY * len(starts) // count + 2)(lambda group: group)
        for start in range(worker * batch_size, count, workers * batch_size):
            for image in order[start : start + batch_size]:
                row_group(image // size)
        misses += row_group.cache_info().misses
    # Row groups across a border, and those at the end of the epoch, are read more often.
    assert misses < len(starts) * (reads + 0.5)


def test_batches_mix_many_row_groups():
    starts, rng = np.arange(0, 50_000, 100), np.random.default_rng(0)
    order = shuffle_nearby(shuffle_groups(starts, 50_000, rng), 256, rng)
    batches = order[: 50_000 // 256 * 256].reshape(-1, 256) // 100
    assert min(len(set(batch)) for batch in batches.tolist()) >= 8


class Groups:
    """A store of fifty images that are read in groups of seven."""

    starts = np.arange(0, 50, 7)


def unequal() -> EncodedImages:
    """Return forty images of one class and ten of another."""
    labels = np.repeat([0, 1], [40, 10])
    return EncodedImages(Path(), Groups(), np.arange(50), labels, ("many", "few"))


@pytest.mark.parametrize("replicas", [1, 2])
def test_balanced_epochs_repeat_the_images_of_the_small_class(replicas):
    images = unequal()
    draws = []
    for rank in range(replicas):
        order = EpochOrder(
            images, training=True, batch_size=5, seed=0, sampling="balanced",
            num_replicas=replicas, rank=rank,
        )  # fmt: skip
        mine = list(order)
        assert len(mine) == len(order) == 50 // replicas
        assert mine == list(order)
        draws += mine
    assert np.bincount(images.labels[[draw.image for draw in draws]]).tolist() == [25, 25]
    assert len(set(draws)) == 50, "a repeated image is augmented anew"
    assert {draw.repetition for draw in draws} == {0, 1, 2}
    assert [draw.image for draw in draws] != sorted(draw.image for draw in draws)
