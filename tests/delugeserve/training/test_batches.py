"""Batches of images in memory: who sees which, in which order."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from delugeserve.data.datasets import LabelledImages
from delugeserve.errors import UsageError
from delugeserve.training import batches
from delugeserve.training.batches import EpochBatches, Reading, share_of
from delugeserve.training.config import RunConfig
from delugeserve.training.distributed import World
from delugeserve.training.recipes import find_recipe
from delugeserve.zoo import CIFAR10, IMAGENET

ALONE = World()
PAIR = [World(rank, 2, rank, 2) for rank in (0, 1)]


def order(count=100, batch_size=20, epoch=0, **options):
    sampler = EpochBatches(count, batch_size, **{"seed": 0, "world": ALONE} | options)
    sampler.set_epoch(epoch)
    found = [batch.tolist() for batch in sampler]
    assert len(found) == len(sampler)
    return found


def test_an_epoch_has_every_image_once_but_those_that_fill_no_step():
    found = order(count=107)
    assert [len(batch) for batch in found] == [20] * 5
    assert len({index for batch in found for index in batch}) == 100
    assert found == order(count=107), "a resumed run sees the same"
    assert found != order(count=107, epoch=1)
    assert found != order(count=107, seed=1)
    assert order(epoch=1) != order(seed=1), "no seed repeats another's epochs"


def test_the_last_images_can_be_a_smaller_step():
    found = order(count=107, partial=True)
    assert [len(batch) for batch in found] == [20] * 5 + [7]
    assert sorted(itertools.chain(*found)) == list(range(107))
    assert found[:5] == order(count=107)
    assert order(partial=True) == order(), "where none are left"
    pair = [order(count=107, partial=True, accumulate=2, world=world) for world in PAIR]
    assert [len(batch) for batch in pair[0]] == [len(batch) for batch in pair[1]]
    assert [len(batch) for batch in pair[0]] == [5] * 10 + [1, 1], "7 images, shared by 4"


@pytest.mark.parametrize("accumulate", [1, 2, 5])
def test_processes_share_what_one_sees(accumulate):
    alone = order(accumulate=accumulate)
    first, second = (order(accumulate=accumulate, world=world) for world in PAIR)
    assert [len(batch) for batch in first] == [10 // accumulate] * 5 * accumulate
    for whole, even, odd in zip(alone, first, second, strict=True):
        assert whole[0::2] == even
        assert whole[1::2] == odd


def test_accumulated_batches_are_the_parts_of_a_step():
    parts = order(count=107, accumulate=4)
    steps = [list(itertools.chain(*parts[i : i + 4])) for i in range(0, len(parts), 4)]
    assert steps == order(count=107)


def test_balanced_epochs_have_equally_many_images_of_each_class():
    labels = np.repeat([0, 1, 2], [70, 20, 10])
    found = order(labels=labels)
    assert np.bincount(labels[list(itertools.chain(*found))]).max() <= 34
    assert found == order(labels=labels)
    assert found != order(labels=labels, epoch=1)
    shares = [order(labels=labels, world=world) for world in PAIR]
    assert [
        list(itertools.chain(*zip(*pair, strict=True))) for pair in zip(*shares, strict=True)
    ] == found


def test_few_images_are_one_step_of_them_all():
    assert sorted(*order(count=7)) == list(range(7))
    assert [len(batch) for batch in order(count=7, accumulate=2)] == [3, 3]
    with pytest.raises(UsageError, match="1 training images are too few"):
        order(count=1, world=PAIR[0])


def test_a_batch_that_cannot_be_divided():
    assert share_of(256, World(size=8), 2) == 16
    with pytest.raises(UsageError) as caught:
        share_of(100, World(size=8), 3)
    assert "100 images" in caught.value.problem
    assert "8 processes x 3 accumulated batches" in caught.value.problem
    assert caught.value.remedy.endswith("a multiple of 24, such as 96.")
    with pytest.raises(UsageError, match="equally: 3 accumulated batches"):
        share_of(100, ALONE, 3)


def images(count):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    return LabelledImages(pixels, np.arange(count), CIFAR10.class_names, "")


@pytest.mark.parametrize("count", [2, 501, 1000])
def test_every_test_image_is_read_once(count):
    read = [
        torch.cat([labels for _, labels in loader]).tolist()
        for loader in (
            batches.test_batches(images(count), CIFAR10, world, Reading())
            for world in (ALONE, *PAIR)
        )
    ]
    assert read[0] == read[1] + read[2] == list(range(count))


def test_images_that_fit_are_kept_on_the_gpu(monkeypatch):
    gpu, cpu = torch.device("cuda", 1), torch.device("cpu")
    free = {gpu: 4 * images(100).images.nbytes}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device], 1 << 40))
    assert batches.keep_on(images(100), gpu) == gpu
    assert batches.keep_on(images(101), gpu) == cpu, "a quarter of what is free"
    assert batches.keep_on(images(1), cpu) == cpu


def test_images_on_a_device_are_gathered_there():
    """The meta device stands for a GPU: it has no values, and refuses those of the CPU."""
    meta = torch.device("meta")
    sampler = EpochBatches(100, 20, seed=0, world=ALONE, device=meta)
    tensors = batches._tensors(images(100), meta)
    shapes = [tuple(tensors[indices][0].shape) for indices in sampler]
    assert shapes == [(20, 32, 32, 3)] * 5


def test_too_few_test_images():
    with pytest.raises(UsageError, match="1 test images are too few for 2 processes"):
        batches.test_batches(images(1), CIFAR10, PAIR[0], Reading())


def test_too_few_training_images_of_those_that_are_streamed(tmp_path, write_tiny_imagenet):
    mini = dataclasses.replace(
        IMAGENET, class_names=IMAGENET.class_names[:2], image_size=72, resize_size=80
    )
    config = RunConfig("mini", find_recipe("imagenet"), 0, "fp32", "images")
    source = write_tiny_imagenet(tmp_path, "folder", train=4, test=2)
    few = batches.read_split(str(source), "train", mini, limit=2)
    world = World(size=4, local_size=4)
    with pytest.raises(UsageError, match=r"2 training images are too few: .* into 4 parts"):
        batches.training_batches(few, mini, config, world, Reading())
    assert len(batches.training_batches(few, mini, config, PAIR[0], Reading())) == 1
