"""Image folders."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from delugeserve.data.datasets import load_images
from delugeserve.errors import DatasetError
from delugeserve.zoo import CIFAR10, IMAGENET
from delugeserve_client.preprocessing import Preprocessing

PIXELS = np.random.default_rng(1).integers(0, 256, (20, 32, 32, 3), np.uint8)


def write_image(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_split(folder: Path, names: tuple[str, ...] = CIFAR10.class_names) -> Path:
    for row, pixels in enumerate(PIXELS):
        write_image(folder / names[row % len(names)] / f"{row:02d}.png", pixels)
    return folder


def refusal(source: Path, split: str = "test") -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        load_images(source, split, CIFAR10)
    assert caught.value.problem.endswith(".")
    return caught.value


@pytest.mark.parametrize("test", ["test", "val", "valid", "validation"])
def test_reads_the_splits_under_the_names_in_use(tmp_path: Path, test: str) -> None:
    write_split(tmp_path / "train")
    write_image(tmp_path / test / "cat" / "one.bmp", PIXELS[3])
    train, found = (load_images(tmp_path, split, CIFAR10) for split in ("train", "test"))
    # The classes take turns, so the images come in the order of their numbers.
    np.testing.assert_array_equal(train.images, PIXELS)
    np.testing.assert_array_equal(train.labels, np.arange(20) % 10)
    np.testing.assert_array_equal(found.images, PIXELS[3:4])
    assert found.labels.tolist() == [3]
    assert train.class_names == found.class_names == CIFAR10.class_names


def test_a_limit_takes_from_all_classes(tmp_path: Path) -> None:
    write_split(tmp_path / "test")
    data = load_images(tmp_path, "test", CIFAR10, limit=13)
    np.testing.assert_array_equal(data.labels, np.arange(13) % 10)


def test_the_data_sets_classes_keep_its_order(tmp_path: Path) -> None:
    spec = dataclasses.replace(CIFAR10, name="cifar100", num_classes=100)
    # In the order of their names "lawn_mower" comes before "Lamp" does in this spelling.
    for name in ("lawn_mower", "Lamp"):
        write_image(tmp_path / "test" / name / "0.png", PIXELS[0])
    data = load_images(tmp_path, "test", spec)
    assert {data.class_names[label] for label in data.labels} == {"lamp", "lawn mower"}


def test_foreign_classes_are_sorted_by_name(tmp_path: Path) -> None:
    names = tuple(f"cheese {letter}" for letter in "jihgfedcba")
    write_split(tmp_path / "test", names)
    data = load_images(tmp_path, "test", CIFAR10)
    assert data.class_names == tuple(sorted(names))
    assert data.labels[:3].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(data.images[0], PIXELS[9])


def test_a_class_without_test_images_shifts_no_other(tmp_path: Path) -> None:
    names = tuple(f"cheese {letter}" for letter in "abcdefghij")
    write_split(tmp_path / "train", names)
    write_image(tmp_path / "test" / "cheese j" / "0.png", PIXELS[0])
    data = load_images(tmp_path, "test", CIFAR10)
    assert data.labels.tolist() == [9]
    assert data.class_names == names


def test_wordnet_numbers_are_imagenets_classes(tmp_path: Path) -> None:
    for index in range(1000):
        (tmp_path / "val" / f"n{index:08d}").mkdir(parents=True)
    write_image(tmp_path / "val" / "n00000007" / "0.jpeg", PIXELS[0])
    data = load_images(tmp_path, "test", IMAGENET)
    assert data.class_names == IMAGENET.class_names
    assert data.labels.tolist() == [7]
    assert data.images.shape == (1, 224, 224, 3)


def test_images_are_scaled_and_cropped_as_the_client_does_it(tmp_path: Path) -> None:
    wide = np.random.default_rng(3).integers(0, 256, (60, 200, 3), np.uint8)
    path = write_image(tmp_path / "test" / "cat" / "wide.png", wide)
    data = load_images(tmp_path, "test", CIFAR10)
    np.testing.assert_array_equal(data.images[0], Preprocessing(32, 32, 32)(path))


def test_an_image_of_the_right_size_stays_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (224, 224, 3), np.uint8)
    write_image(tmp_path / "val" / "tench" / "0.png", pixels)
    data = load_images(tmp_path, "test", IMAGENET)
    np.testing.assert_array_equal(data.images[0], pixels)
    assert data.labels.tolist() == [0]


def test_the_fingerprint_is_that_of_the_parquet_files(tmp_path: Path, tiny_cifar: Path) -> None:
    tiny = load_images(tiny_cifar, "test", CIFAR10)
    for row, (pixels, label) in enumerate(zip(tiny.images, tiny.labels, strict=True)):
        name = tiny.class_names[label]
        write_image(tmp_path / "images" / "test" / name / f"{row}.png", pixels)
    data = load_images(tmp_path / "images", "test", CIFAR10)
    assert data.fingerprint == tiny.fingerprint


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    write_split(tmp_path / "test")
    (tmp_path / "test" / "README.txt").write_text("photographs")
    (tmp_path / "test" / "cat" / "Thumbs.db").write_bytes(b"123")
    (tmp_path / "test" / "cat" / "._03.png").write_bytes(b"123")
    (tmp_path / "test" / ".cache").mkdir()
    assert len(load_images(tmp_path, "test", CIFAR10)) == 20


def test_a_missing_split(tmp_path: Path) -> None:
    write_split(tmp_path / "train")
    (tmp_path / "test" / "cat").mkdir(parents=True)
    error = refusal(tmp_path)
    assert "no images of the test split" in error.problem
    assert error.remedy == "Put them into test/<class>/ or val/<class>/."


def test_a_wrong_number_of_classes(tmp_path: Path) -> None:
    write_split(tmp_path / "test", ("apple", "pear", "plum"))
    assert "has 3 classes, and CIFAR-10 has 10." in refusal(tmp_path).problem


def test_a_class_that_was_not_trained_on(tmp_path: Path) -> None:
    write_split(tmp_path / "train")
    write_image(tmp_path / "test" / "zebra" / "0.png", PIXELS[0])
    assert "has the class 'zebra'" in refusal(tmp_path).problem


@pytest.mark.parametrize("damage", [b"", b"not an image", None])
def test_an_unreadable_image_is_named(tmp_path: Path, damage: bytes | None) -> None:
    folder = write_split(tmp_path / "test")
    path = folder / "cat" / "03.png"
    path.write_bytes(path.read_bytes()[:-400] if damage is None else damage)
    assert str(path) in refusal(tmp_path).problem

    told: list[Sequence[str]] = []
    found = load_images(tmp_path, "test", CIFAR10, skip=told.append)
    assert told == [[str(path)]]
    of_each = np.bincount(found.labels)
    assert of_each.tolist() == [1 if name == "cat" else 2 for name in CIFAR10.class_names]
    path.unlink()
    assert found.fingerprint == load_images(tmp_path, "test", CIFAR10).fingerprint
