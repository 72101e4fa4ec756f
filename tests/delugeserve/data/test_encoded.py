"""Indices of images that are decoded later, and the order in which they are read."""

from __future__ import annotations

import dataclasses
import functools
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from delugeserve.data.datasets import load_images
from delugeserve.data.encoded import NEARBY, EncodedImages, index_images
from delugeserve.data.order import EpochOrder, shuffle_groups, shuffle_nearby
from delugeserve.errors import DatasetError
from delugeserve.zoo import IMAGENET

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

TWO_CLASSES = dataclasses.replace(IMAGENET, num_classes=2)
LAYOUTS = pytest.mark.parametrize("layout", ["folder", "parquet"])


def contents(images: EncodedImages) -> list[bytes]:
    encoded = [images[index] for index in range(len(images))]
    return [item.read_bytes() if isinstance(item, Path) else item for item in encoded]


def write_rows(path: Path, labels: list[int | None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    Image.new("RGB", (224, 224)).save(stream, "PNG")
    images = [stream.getvalue()] * len(labels)
    pq.write_table(pa.table({"image": images, "label": pa.array(labels, pa.int64())}), path)


# What is found


@LAYOUTS
@pytest.mark.parametrize("limit", [None, 1, 25, 99])
def test_images_come_with_their_labels(tmp_path, write_tiny_imagenet, layout, limit):
    write_tiny_imagenet(tmp_path, layout)
    images = index_images(tmp_path, "train", TWO_CLASSES, limit=limit)
    assert len(images) == min(limit or 60, 60)
    assert images.class_names == ("night", "noon")
    assert images.labels.dtype == np.int64
    for content, label in zip(contents(images), images.labels, strict=True):
        bright = np.asarray(Image.open(io.BytesIO(content))).mean() > 125
        assert images.class_names[label] == ("noon" if bright else "night")
    assert len(set(contents(images))) == len(images)


def test_a_folder_is_in_the_order_in_which_it_is_loaded(tmp_path, write_tiny_imagenet):
    write_tiny_imagenet(tmp_path, "folder", train=11)
    images = index_images(tmp_path, "train", TWO_CLASSES)
    loaded = load_images(tmp_path, "train", TWO_CLASSES)
    np.testing.assert_array_equal(images.labels, loaded.labels)
    assert images.class_names == loaded.class_names


@LAYOUTS
def test_a_copy_in_another_process_reads_the_same(tmp_path, write_tiny_imagenet, layout):
    write_tiny_imagenet(tmp_path, layout)
    images = index_images(tmp_path, "test", TWO_CLASSES)
    before = contents(images)
    copy = pickle.loads(pickle.dumps(images))
    assert contents(copy) == before
    assert [copy.name(i) for i in range(len(copy))] == [images.name(i) for i in range(len(copy))]


def test_images_have_names(tmp_path, write_tiny_imagenet):
    write_tiny_imagenet(tmp_path / "a", "folder")
    images = index_images(tmp_path / "a", "train", TWO_CLASSES)
    assert images.name(3) == str(images[3])
    write_tiny_imagenet(tmp_path / "b", "parquet")
    images = index_images(tmp_path / "b", "train", TWO_CLASSES)
    shard = tmp_path / "b" / "data" / "train-00001-of-00002.parquet"
    assert images.name(42) == f"The image in row 12 of {shard} (counted from 0)"
    table = pq.read_table(shard)
    assert images[42] == table["image"][12]["bytes"].as_py()


def test_any_name_will_do(tmp_path):
    names = ["blå himmel.jpg", "x" * 200 + ".jpg", "\udcff.jpg"]
    for class_name in ("night", "noon"):
        for name in names:
            file = tmp_path / "train" / class_name / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(f"{class_name} {len(name)}".encode())
    images = index_images(tmp_path, "train", TWO_CLASSES)
    assert sorted(contents(images)) == sorted(
        f"{class_name} {len(name)}".encode() for class_name in ("night", "noon") for name in names
    )


@LAYOUTS
def test_the_fingerprint_stands_for_the_images(tmp_path, write_tiny_imagenet, layout):
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_tiny_imagenet(tmp_path / folder, layout, seed=seed)
    one, same, other = (
        index_images(tmp_path / folder, "train", TWO_CLASSES).fingerprint for folder in "abc"
    )
    assert one == same
    assert len({one, other, index_images(tmp_path / "a", "test", TWO_CLASSES).fingerprint}) == 3
    assert index_images(tmp_path / "a", "train", TWO_CLASSES, limit=59).fingerprint != one


def test_imagenets_test_shards_have_no_labels_and_are_passed_over(tmp_path):
    write_rows(tmp_path / "data" / "test-00000-of-00001.parquet", [-1, -1])
    write_rows(tmp_path / "data" / "validation-00000-of-00001.parquet", [7, 8, 9])
    assert index_images(tmp_path, "test", IMAGENET).labels.tolist() == [7, 8, 9]


# What is refused


def broken_sources(folder: Path) -> dict[str, Path]:
    places = {name: folder / name for name in ("range", "none", "class", "split", "junk")}
    write_rows(places["range"] / "train.parquet", [0, 1, 1000])
    write_rows(places["none"] / "train.parquet", [0, None])
    for split, class_name in (("train", "hat"), ("train", "night"), ("val", "noon")):
        file = places["class"] / split / class_name / "0.jpg"
        file.parent.mkdir(parents=True)
        file.touch()
    (places["split"] / "val" / "noon").mkdir(parents=True)
    (places["split"] / "val" / "noon" / "0.jpg").touch()
    places["junk"].mkdir()
    (places["junk"] / "train.parquet").write_bytes(b"junk")
    return places | {"missing": folder / "missing"}


@pytest.mark.parametrize(
    ("broken", "split", "says"),
    [
        ("range", "train", "Image 2 of {}/train.parquet (counted from 0) has the label 1000"),
        ("none", "train", "{}/train.parquet has rows without a label."),
        ("class", "test", "{}/val has the class 'noon', which {}/train has not."),
        ("split", "train", "{} has no images of the train split."),
        ("junk", "train", "{}/train.parquet is not a parquet file"),
        ("missing", "train", "There is no file or folder '{}'."),
    ],
)
def test_what_is_wrong_is_said_as_when_all_are_read(tmp_path, broken, split, says):
    source = broken_sources(tmp_path)[broken]
    errors = []
    for read in (index_images, load_images):
        with pytest.raises(DatasetError) as caught:
            read(source, split, IMAGENET)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]
    assert errors[0].startswith(says.replace("{}", str(source)))


def test_a_wrong_number_of_classes(tmp_path, write_tiny_imagenet):
    for layout in ("folder", "parquet"):
        write_tiny_imagenet(tmp_path / layout, layout)
        with pytest.raises(DatasetError, match=r"has 2 classes, and ImageNet has 1000\."):
            index_images(tmp_path / layout, "train", IMAGENET)


def test_a_parquet_file_without_rows(tmp_path, write_tiny_imagenet):
    write_tiny_imagenet(tmp_path, "parquet")
    for shard in tmp_path.glob("data/train*"):
        pq.write_table(pq.read_table(shard)[:0], shard)
    with pytest.raises(DatasetError, match="data holds no images"):
        index_images(tmp_path, "train", TWO_CLASSES)


def test_a_folder_without_images(tmp_path):
    (tmp_path / "train" / "night").mkdir(parents=True)
    with pytest.raises(DatasetError, match="holds no images") as caught:
        index_images(tmp_path, "train", TWO_CLASSES)
    assert str(tmp_path) in caught.value.problem
    with pytest.raises(DatasetError, match="leaves none to read"):
        index_images(tmp_path, "train", TWO_CLASSES, limit=0)


def test_a_row_group_damaged_after_the_index_was_made(tmp_path, write_tiny_imagenet):
    write_tiny_imagenet(tmp_path, "parquet")
    images = index_images(tmp_path, "train", TWO_CLASSES)
    shard = tmp_path / "data" / "train-00000-of-00002.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(b"\xff" * (len(whole) // 2) + whole[len(whole) // 2 :])
    with pytest.raises(DatasetError, match="is damaged or truncated") as caught:
        contents(images)
    assert str(shard) in caught.value.problem


# In which order


@given(
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=60).filter(any),
    batch_size=st.integers(1, 600),
    seed=st.integers(0, 2**31),
)
def test_every_image_has_its_place_in_the_order(sizes, batch_size, seed):
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


@LAYOUTS
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
    # Row groups that lie on a border, and those at the end of the epoch, are read more often.
    assert misses < len(starts) * (reads + 0.5)


def test_batches_are_of_many_row_groups():
    starts, rng = np.arange(0, 50_000, 100), np.random.default_rng(0)
    order = shuffle_nearby(shuffle_groups(starts, 50_000, rng), 256, rng)
    batches = order[: 50_000 // 256 * 256].reshape(-1, 256) // 100
    assert min(len(set(batch)) for batch in batches.tolist()) >= 8
