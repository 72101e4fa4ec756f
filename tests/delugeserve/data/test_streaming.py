"""Batches from worker processes."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from delugeserve.data import streaming
from delugeserve.data.datasets import index_images
from delugeserve.data.imagenet import centre_crop
from delugeserve.data.order import Draw
from delugeserve.data.streaming import StreamedImages, explain_lost_workers, stream_batches
from delugeserve.errors import DatasetError, TrainingError, UnreadableImageError
from delugeserve.zoo import IMAGENET

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

TINY = dataclasses.replace(
    IMAGENET, class_names=IMAGENET.class_names[:2], image_size=32, resize_size=36
)
WORKERS = pytest.mark.parametrize("workers", [0, 2])


@pytest.fixture(params=["folder", "parquet"])
def source(request, tmp_path, write_tiny_imagenet):
    return write_tiny_imagenet(tmp_path / "images", request.param)


def stream(source: Path, split: str = "train", workers: int = 0, **options):
    settings = {
        "training": split == "train",
        "batch_size": 8,
        "num_workers": workers,
        "seed": 3,
        "task": TINY,
        "on_unreadable": "fail",
    }
    return stream_batches(index_images(source, split, TINY), **settings | options)


def epoch(loader, number: int):
    loader.sampler.set_epoch(number)
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_batches_do_not_depend_on_the_number_of_workers(source):
    alone, helped = stream(source), stream(source, workers=2)
    first, second = epoch(alone, 0), epoch(alone, 1)
    assert first[0].shape == (56, 32, 32, 3)  # seven batches; the last four images are dropped
    assert first[0].dtype == torch.uint8
    assert first[1].dtype == torch.int64
    assert same(first, epoch(helped, 0))
    assert same(second, epoch(helped, 1))
    assert not same(first, second)
    # A run resumed at its second epoch sees what an uninterrupted one sees.
    assert same(second, epoch(stream(source, workers=1), 1))
    assert not same(first, epoch(stream(source, seed=4), 0))


def test_augmentation_differs_between_epochs_and_seeds(source):
    images = index_images(source, "train", TINY)
    views = [
        StreamedImages(images, TINY, training=True, seed=seed, on_unreadable="fail")[draw].image
        for seed, draw in ((3, Draw(0, 5)), (3, Draw(1, 5)), (4, Draw(0, 5)), (3, Draw(0, 5)))
    ]
    assert torch.equal(views[0], views[3])
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_flips_are_random_alternate_or_are_left_out(source):
    images = index_images(source, "train", TINY)
    unflipped = StreamedImages(
        images, TINY, training=True, seed=3, on_unreadable="fail", flip="none"
    )
    found = {
        flip: np.array([
            [_is_mirror(unflipped, Draw(epoch, image), flip) for image in range(20)]
            for epoch in range(4)
        ])
        for flip in ("none", "random", "alternating")
    }  # fmt: skip
    assert not found["none"].any()
    assert 20 < found["random"].sum() < 60
    alternating = found["alternating"]
    assert 0 < alternating[0].sum() < 20
    assert np.array_equal(alternating[0], alternating[2])
    assert np.array_equal(alternating, ~np.roll(alternating, 1, axis=0))


def test_crops_have_the_area_that_is_asked_for(source, monkeypatch):
    asked = []

    def crop(image, name, task, generator, *, mirror, crop_area):
        asked.append(crop_area)
        return centre_crop(image, name, task)

    monkeypatch.setattr(streaming, "augmented_crop", crop)
    next(iter(stream(source, crop_area=0.4)))
    assert set(asked) == {0.4}


def _is_mirror(unflipped: StreamedImages, draw: Draw, flip: str) -> bool:
    flipped = StreamedImages(
        unflipped.images, TINY, training=True, seed=3, on_unreadable="fail", flip=flip
    )
    image, other = unflipped[draw].image, flipped[draw].image
    assert torch.equal(image, other) or torch.equal(image.flip(1), other)
    return not torch.equal(image, other)


@pytest.mark.slow
def test_spawned_workers_read_the_same(source):
    spawned = stream(source, workers=1)
    spawned.multiprocessing_context = "spawn"
    assert same(epoch(spawned, 0), epoch(stream(source), 0))


@WORKERS
def test_test_images_are_centre_crops_in_order(source, workers):
    images = index_images(source, "test", TINY)
    found, labels = epoch(stream(source, "test", workers), 0)
    assert labels.tolist() == images.labels.tolist()
    for index, image in enumerate(found):
        assert torch.equal(image, centre_crop(images[index], "", TINY))


def test_processes_share_an_epoch(source):
    whole = epoch(stream(source, "test"), 0)
    shares = [epoch(stream(source, "test", num_replicas=3, rank=rank), 0) for rank in range(3)]
    assert same(whole, [torch.cat(parts) for parts in zip(*shares, strict=True)])
    trained = [epoch(stream(source, num_replicas=3, rank=rank), 0)[0] for rank in range(3)]
    assert {len(images) for images in trained} == {16}


def test_fewer_images_than_a_batch_are_one_batch(source):
    images, labels = epoch(stream(source, batch_size=100), 0)
    assert len(images) == len(labels) == 60


@pytest.mark.slow
def test_a_classifier_learns_the_classes(source):
    """Images and labels stay together from the files to the batches."""
    network = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2)
    )
    optimiser = torch.optim.SGD(network.parameters(), lr=0.5)

    def logits(images):
        return network(images.permute(0, 3, 1, 2).float() / 127.5 - 1)

    train = stream(source, workers=2)
    for number in range(4):
        train.sampler.set_epoch(number)
        for images, labels in train:
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(logits(images), labels).backward()
            optimiser.step()
    images, labels = epoch(stream(source, "test"), 0)
    assert torch.equal(logits(images).argmax(dim=1), labels)


# Unreadable images


def spoil(source: Path, rows: list[int]) -> list[str]:
    """Damage training images, and return their names."""
    images = index_images(source, "train", TINY)
    names = [images.name(row) for row in rows]
    for row in rows:
        if isinstance(images[row], Path):
            images[row].write_bytes(b"no image")
    shards = sorted(source.glob("data/train*.parquet"))
    for shard, first in zip(shards, (0, 30), strict=False):
        table = pq.read_table(shard).to_pydict()
        for row in rows:
            if first <= row < first + 30:
                table["image"][row - first]["bytes"] = [b"no image", None][row % 2]
        schema = pq.read_schema(shard)
        pq.write_table(pa.table(table, schema=schema), shard, row_group_size=7)
    return names


@WORKERS
def test_an_unreadable_image_ends_the_epoch(source, workers):
    (name,) = spoil(source, [11])
    with pytest.raises(UnreadableImageError) as caught:
        epoch(stream(source, workers=workers), 0)
    assert caught.value.name == name


@WORKERS
def test_unreadable_images_are_replaced_and_logged_once_an_epoch(source, workers, caplog):
    whole = epoch(stream(source, batch_size=60), 0)
    names = spoil(source, [11, 12, 40])
    loader = stream(source, workers=workers, batch_size=60, on_unreadable="skip")
    found = epoch(loader, 0)
    (line,) = caplog.messages
    assert line.startswith("3 images")
    assert all(name in line for name in names)
    replaced = [i for i in range(60) if not torch.equal(found[0][i], whole[0][i])]
    assert len(replaced) == 3
    order = [draw.image for draw in loader.sampler]
    assert sorted(order[i] for i in replaced) == [11, 12, 40]
    place = {image: i for i, image in enumerate(order)}
    for image, replacement in ((11, 13), (12, 13), (40, 41)):
        for part in (0, 1):
            assert torch.equal(found[part][place[image]], whole[part][place[replacement]])
    epoch(loader, 1)
    assert len(caplog.messages) == 2


def test_replaced_images_are_logged_to_a_caller_that_stops_after_the_last_batch(source, caplog):
    (name,) = spoil(source, [11])
    loader = stream(source, batch_size=60, on_unreadable="skip")
    batches = iter(loader)
    for _ in range(len(loader)):
        next(batches)
    (line,) = caplog.messages
    assert name in line


@WORKERS
def test_a_data_set_of_unreadable_images_only(source, workers):
    spoil(source, list(range(60)))
    with pytest.raises(UnreadableImageError) as caught:
        epoch(stream(source, workers=workers, on_unreadable="skip"), 0)
    assert caught.value.found == 60


def test_a_damaged_shard_is_a_dataset_error_in_a_worker_too(tmp_path, write_tiny_imagenet):
    source = write_tiny_imagenet(tmp_path, "parquet")
    loader = stream(source, workers=1, on_unreadable="skip")
    shard = tmp_path / "data" / "train-00001-of-00002.parquet"
    shard.write_bytes(b"")
    with pytest.raises(DatasetError) as caught:
        epoch(loader, 0)
    assert caught.value.path == str(shard)


def test_a_lost_worker_is_told_apart_from_other_errors():
    bus_error = "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that"
    with pytest.raises(TrainingError, match=r"Bus error\."), explain_lost_workers():
        raise RuntimeError(bus_error)
    with pytest.raises(RuntimeError, match="mat1 and mat2"), explain_lost_workers():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_only_the_first_names_are_logged(source, caplog):
    names = spoil(source, list(range(0, 60, 4)))
    epoch(stream(source, batch_size=60, on_unreadable="skip"), 0)
    (line,) = caplog.messages
    assert line.startswith("15 images")
    assert line.endswith(" and 5 more.")
    assert sum(name in line for name in names) == 10


def test_images_of_other_modes_become_rgb(tmp_path):
    for name, mode in (("night", "L"), ("noon", "CMYK")):
        stream_of_bytes = io.BytesIO()
        Image.new(mode, (50, 40), 77 if mode == "L" else (0, 0, 0, 0)).save(stream_of_bytes, "JPEG")
        file = tmp_path / "val" / name / "0.jpg"
        file.parent.mkdir(parents=True)
        file.write_bytes(stream_of_bytes.getvalue())
    images, labels = epoch(stream(tmp_path, "test"), 0)
    assert labels.tolist() == [0, 1]
    np.testing.assert_allclose(images.numpy().mean(axis=(1, 2, 3)), (77, 255), atol=2)
