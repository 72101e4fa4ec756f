"""Parquet files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delugeserve.data.datasets import load_images
from delugeserve.data.readers.parquet import _class_names
from delugeserve.errors import DatasetError, MissingExtraError, UnreadableImageError
from delugeserve.zoo import CIFAR10, CIFAR100, IMAGENET
from delugeserve_client.preprocessing import Preprocessing

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def refusal(source: Path, split: str = "test", **options: Any) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        load_images(source, split, CIFAR10, **options)
    return caught.value


# Which files


@pytest.mark.parametrize("columns", [("image", "label"), ("img", "fine_label")])
@pytest.mark.parametrize(
    "parts",
    [
        ["train.parquet"],
        ["data/train-00000-of-00001.parquet"],
        ["plain_text/train-00000-of-00002.parquet", "plain_text/train-00001-of-00002.parquet"],
        ["plain_text/train/0000.parquet", "plain_text/train/0001.parquet"],
    ],
)
def test_files_are_found_under_the_names_in_use(
    write_parquet, pixels, labels, tmp_path, parts, columns
):
    for name, rows in zip(parts, np.split(np.arange(20), len(parts)), strict=True):
        write_parquet(tmp_path / name, pixels[rows], labels[rows], columns=columns)
    write_parquet(tmp_path / parts[0].replace("train", "test"), pixels[:3], labels[:3])

    data = load_images(tmp_path, "train", CIFAR10)

    np.testing.assert_array_equal(data.images, pixels)
    np.testing.assert_array_equal(data.labels, labels)
    assert data.class_names == CIFAR10.class_names
    assert data.images.dtype == np.uint8
    assert data.labels.dtype == np.int64
    assert data.images.flags.c_contiguous
    assert data.skipped.total == 0
    assert data.unreadable == ()


def test_a_single_file_is_the_split_of_its_name_or_divided(write_parquet, tmp_path):
    train = write_parquet(tmp_path / "train.parquet")
    other = write_parquet(tmp_path / "mine.parquet")
    assert len(load_images(train, "train", CIFAR10)) == 20
    parts = [load_images(other, split, CIFAR10) for split in ("train", "test")]
    assert [np.bincount(part.labels).tolist() for part in parts] == [[1] * 10, [1] * 10]
    assert not {image.tobytes() for image in parts[0].images} & {
        image.tobytes() for image in parts[1].images
    }
    error = refusal(train)
    assert (error.path, error.name) == (str(train), "test")


def test_a_missing_split(write_parquet, tmp_path):
    write_parquet(tmp_path / "train.parquet")
    error = refusal(tmp_path)
    assert (error.path, error.name) == (str(tmp_path), "test")
    assert "test.parquet" in error.remedy


def test_missing_shards(write_parquet, tmp_path):
    for part in (0, 3):
        write_parquet(tmp_path / f"data/train-0000{part}-of-00004.parquet")
    error = refusal(tmp_path, "train")
    assert error.path == str(tmp_path / "data")
    assert (error.found, error.expected) == (2, 4)
    assert error.missing == ("00001", "00002")


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"),
        ("train-00000-of-00001", "train"),
        ("0000", "train"),
    ],
)
def test_files_of_two_downloads(write_parquet, tmp_path, names):
    for name in names:
        write_parquet(tmp_path / f"train/{name}.parquet")
    error = refusal(tmp_path, "train")
    assert error.path == str(tmp_path / "train")
    assert error.found == (f"{names[0]}.parquet", f"{names[1]}.parquet")


def test_a_split_in_two_folders(write_parquet, tmp_path):
    for config in ("full", "small"):
        write_parquet(tmp_path / config / "train-00000-of-00001.parquet")
    assert refusal(tmp_path, "train").found == [str(tmp_path / "full"), str(tmp_path / "small")]
    assert len(load_images(tmp_path / "small", "train", CIFAR10)) == 20


# Images


def test_a_plain_column_of_encoded_images(encode, pixels, labels, tmp_path):
    encoded = [encode(image) for image in pixels]
    pq.write_table(pa.table({"img": encoded, "label": labels}), tmp_path / "test.parquet")
    np.testing.assert_array_equal(load_images(tmp_path, "test", CIFAR10).images, pixels)


def test_grey_and_opaque_images_become_rgb(write_parquet, encode, pixels, tmp_path):
    grey = pixels[0, :, :, 0]
    opaque = np.dstack([pixels[1], np.full((32, 32), 255, np.uint8)])
    write_parquet(tmp_path / "test.parquet", [encode(grey), encode(opaque)], [0, 1])
    data = load_images(tmp_path, "test", CIFAR10)
    np.testing.assert_array_equal(data.images[0], np.dstack([grey] * 3))
    np.testing.assert_array_equal(data.images[1], pixels[1])


@pytest.mark.parametrize(("limit", "length"), [(1, 1), (7, 7), (15, 15), (20, 20), (99, 20)])
def test_a_limit_takes_the_first_images(write_parquet, pixels, labels, tmp_path, limit, length):
    write_parquet(tmp_path / "train.parquet")
    data = load_images(str(tmp_path), "train", CIFAR10, limit=limit)
    np.testing.assert_array_equal(data.images, pixels[:length])
    np.testing.assert_array_equal(data.labels, labels[:length])


def test_imagenets_photographs_have_any_size(write_parquet, encode, tmp_path):
    photo, cut = (
        np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        for size in ((260, 390), (224, 224))
    )
    write_parquet(tmp_path / "test.parquet", [encode(photo), encode(cut)], [0, 1], names=None)
    found = load_images(tmp_path, "test", IMAGENET)
    np.testing.assert_array_equal(found.images[0], Preprocessing(224, 224, 256)(photo))
    np.testing.assert_array_equal(found.images[1], cut)


def test_images_of_other_sizes_are_resized_as_those_of_folders(
    write_parquet, write_image, encode, tmp_path
):
    photo = np.random.default_rng(0).integers(0, 256, (60, 200, 3), np.uint8)
    write_parquet(tmp_path / "parquet" / "test.parquet", [encode(photo)], [3])
    write_image(tmp_path / "folder" / "test" / "cat" / "0.png", photo)
    packed, single = (
        load_images(tmp_path / form, "test", CIFAR10) for form in ("parquet", "folder")
    )
    np.testing.assert_array_equal(packed.images, single.images)
    np.testing.assert_array_equal(packed.labels, single.labels)


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "null"])
def test_an_unreadable_image_is_named(write_parquet, encode, pixels, tmp_path, damage):
    content = {
        "empty": b"",
        "text": b"not an image",
        "truncated": encode(pixels[0], "JPEG")[:500],
        "null": None,
    }[damage]
    images = [encode(image) for image in pixels]
    write_parquet(tmp_path / "test.parquet", [*images[:9], content, *images[10:]])
    error = refusal(tmp_path)
    assert isinstance(error, UnreadableImageError)
    assert "row 9 of" in error.name
    assert len(load_images(tmp_path, "test", CIFAR10, limit=9)) == 9


def test_unreadable_images_are_left_out_and_reported(
    write_parquet, encode, pixels, labels, tmp_path, caplog
):
    images: list[bytes | None] = [encode(image) for image in pixels]
    images[9], images[16] = b"not an image", None  # in different row groups
    write_parquet(tmp_path / "test.parquet", images)
    found = load_images(tmp_path, "test", CIFAR10, on_unreadable="skip")
    rows = [row for row in range(20) if row not in (9, 16)]
    np.testing.assert_array_equal(found.images, pixels[rows])
    np.testing.assert_array_equal(found.labels, labels[rows])
    first, second = found.unreadable
    assert "row 9 of" in first
    assert "row 16 of" in second
    (line,) = caplog.messages
    assert first in line
    assert second in line

    caplog.clear()
    assert not load_images(tmp_path, "test", CIFAR10, limit=9, on_unreadable="skip").unreadable
    assert not caplog.messages


def test_no_readable_image_at_all(write_parquet, tmp_path):
    path = write_parquet(tmp_path / "test.parquet", [b"", b""], [0, 1])
    assert refusal(tmp_path, on_unreadable="skip").path == str(path)


# Columns and classes


@pytest.mark.parametrize("columns", [("picture", "label"), ("image", "kind")])
def test_a_missing_column(write_parquet, tmp_path, columns):
    path = write_parquet(tmp_path / "test.parquet", columns=columns, names=None)
    error = refusal(tmp_path)
    assert error.path == str(path)
    assert error.name == ("image" if columns[0] == "picture" else "label")
    assert error.found == (*columns, "coarse_label")


@pytest.mark.parametrize(
    ("columns", "wrong"),
    [
        ({"image": [1.5], "label": [0]}, "image"),
        ({"image": [b""], "label": [1.5]}, "label"),
    ],
)
def test_a_column_of_the_wrong_type(tmp_path, columns, wrong):
    pq.write_table(pa.table(columns), tmp_path / "test.parquet")
    error = refusal(tmp_path)
    assert (error.name, error.found) == (wrong, "double")


def test_a_row_without_a_label(write_parquet, labels, tmp_path):
    write_parquet(tmp_path / "test.parquet", labels=[*labels[:-1], None])
    assert refusal(tmp_path).name == "label"


def test_class_names_come_from_the_metadata(write_parquet, labels, tmp_path):
    names = [name.upper() for name in reversed(CIFAR10.class_names)]
    write_parquet(tmp_path / "train.parquet", labels=9 - labels, names=names)
    write_parquet(tmp_path / "test.parquet", names=None)
    train, test = (load_images(tmp_path, split, CIFAR10) for split in ("train", "test"))
    np.testing.assert_array_equal(train.labels, labels)
    assert train.class_names == test.class_names == CIFAR10.class_names
    assert train.fingerprint == test.fingerprint


def test_another_number_of_classes(write_parquet, tmp_path):
    write_parquet(tmp_path / "test.parquet", names=CIFAR100.class_names)
    assert refusal(tmp_path).found == 100


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["info", "features", "label", "names", "x"]), inner, max_size=3
        )
    ),
)


class FileWithMetadata:
    """The part of a parquet file that class names are read from."""

    def __init__(self, text: bytes) -> None:
        self.schema_arrow = self
        self.metadata = {b"huggingface": text}


@given(JSON.map(lambda value: json.dumps(value).encode()) | st.binary())
def test_any_metadata_gives_names_or_none(text):
    names = _class_names(FileWithMetadata(text))
    assert names is None or all(isinstance(name, str) for name in names)


# Damage


@pytest.mark.parametrize("kept", [0, 3, 1000, -1])
def test_a_truncated_file(write_parquet, tmp_path, kept):
    path = write_parquet(tmp_path / "test.parquet")
    path.write_bytes(path.read_bytes()[:kept])
    assert refusal(tmp_path).path == str(path)


def test_damage_inside_a_file(write_parquet, tmp_path):
    path = write_parquet(tmp_path / "test.parquet")
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)
    path.write_bytes(content)
    assert str(refusal(tmp_path).path) == str(path)


def test_a_file_without_rows(write_parquet, tmp_path):
    path = write_parquet(tmp_path / "test.parquet", [], [])
    assert refusal(tmp_path).path == str(path)


def test_without_pyarrow_the_extra_is_named(write_parquet, tmp_path, monkeypatch):
    write_parquet(tmp_path / "test.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError) as caught:
        load_images(tmp_path, "test", CIFAR10)
    assert (caught.value.module, caught.value.extra) == ("pyarrow", "train")
