"""Images that are listed now and decoded later."""

from __future__ import annotations

import dataclasses
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delugeserve.data.datasets import index_images, load_images
from delugeserve.data.encoded import EncodedImages
from delugeserve.errors import DatasetError
from delugeserve.zoo import IMAGENET

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

TWO_CLASSES = dataclasses.replace(IMAGENET, class_names=IMAGENET.class_names[:2])
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


def test_a_folder_is_listed_in_the_order_in_which_it_is_loaded(tmp_path, write_tiny_imagenet):
    write_tiny_imagenet(tmp_path, "folder", train=11)
    images = index_images(tmp_path, "train", TWO_CLASSES)
    loaded = load_images(tmp_path, "train", TWO_CLASSES)
    np.testing.assert_array_equal(images.labels, loaded.labels)
    assert images.class_names == loaded.class_names


@LAYOUTS
def test_a_pickled_copy_reads_the_same(tmp_path, write_tiny_imagenet, layout):
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


def test_file_names_may_be_long_and_in_any_encoding(tmp_path):
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
def test_the_fingerprint_identifies_the_images(tmp_path, write_tiny_imagenet, layout):
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_tiny_imagenet(tmp_path / folder, layout, seed=seed)
    one, same, other = (
        index_images(tmp_path / folder, "train", TWO_CLASSES).fingerprint for folder in "abc"
    )
    assert one == same
    assert len({one, other, index_images(tmp_path / "a", "test", TWO_CLASSES).fingerprint}) == 3
    assert index_images(tmp_path / "a", "train", TWO_CLASSES, limit=59).fingerprint != one


def test_imagenets_validation_split_is_tested_on_and_its_unlabelled_test_split_is_not(tmp_path):
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
    ("broken", "split", "path", "facts"),
    [
        ("range", "train", "train.parquet", {"name": "2", "found": 1000}),
        ("none", "train", "train.parquet", {"name": "label"}),
        ("class", "test", "val", {"extra": ("noon",)}),
        ("split", "train", "", {"name": "train"}),
        ("junk", "train", "train.parquet", {}),
        ("missing", "train", "", {}),
    ],
)
def test_errors_are_those_of_reading_into_memory(tmp_path, broken, split, path, facts):
    source = broken_sources(tmp_path)[broken]
    errors = []
    for read in (index_images, load_images):
        with pytest.raises(DatasetError) as caught:
            read(source, split, IMAGENET)
        errors.append(caught.value)
    assert str(errors[0]) == str(errors[1])
    assert errors[0].path == str(source / path)
    for fact, value in facts.items():
        assert getattr(errors[0], fact) == value


@LAYOUTS
def test_a_wrong_number_of_classes(tmp_path, write_tiny_imagenet, layout):
    write_tiny_imagenet(tmp_path, layout)
    with pytest.raises(DatasetError) as caught:
        index_images(tmp_path, "train", IMAGENET)
    assert (caught.value.found, caught.value.expected) == (2, 1000)


def test_a_parquet_file_without_rows(tmp_path, write_tiny_imagenet):
    write_tiny_imagenet(tmp_path, "parquet")
    for shard in tmp_path.glob("data/train*"):
        pq.write_table(pq.read_table(shard)[:0], shard)
    with pytest.raises(DatasetError) as caught:
        index_images(tmp_path, "train", TWO_CLASSES)
    assert caught.value.path == str(tmp_path / "data")


def test_a_row_group_damaged_after_it_was_listed(tmp_path, write_tiny_imagenet):
    write_tiny_imagenet(tmp_path, "parquet")
    images = index_images(tmp_path, "train", TWO_CLASSES)
    shard = tmp_path / "data" / "train-00000-of-00002.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(b"\xff" * (len(whole) // 2) + whole[len(whole) // 2 :])
    with pytest.raises(DatasetError) as caught:
        contents(images)
    assert caught.value.path == str(shard)
