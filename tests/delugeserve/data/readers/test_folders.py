"""Image folders."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delugeserve.data.datasets import check_source, index_images, load_images
from delugeserve.data.formats import FORMATS, SUFFIXES, decodable_formats
from delugeserve.data.streaming import stream_batches
from delugeserve.errors import ClassNameError, DatasetError, UnreadableImageError
from delugeserve.zoo import CIFAR10, CIFAR100, IMAGENET
from delugeserve_client.preprocessing import Preprocessing

READ = pytest.mark.parametrize("read", [load_images, index_images])
OWN_NAMES = tuple(f"cheese {letter}" for letter in "abcdefghij")


@pytest.fixture
def write_split(write_image, pixels):
    """A function that writes ``pixels`` to class folders, the classes taking turns."""

    def write(folder: Path, names: tuple[str, ...] = CIFAR10.class_names) -> Path:
        for row, image in enumerate(pixels):
            write_image(folder / names[row % len(names)] / f"{row:02d}.png", image)
        return folder

    return write


def refusal(read, source: Path, split: str = "test", task=CIFAR10) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        read(source, split, task)
    return caught.value


# Splits and classes


@pytest.mark.parametrize("test", ["test", "val", "valid", "validation"])
def test_splits_are_found_under_the_names_in_use(
    write_split, write_image, pixels, labels, tmp_path, test
):
    write_split(tmp_path / "train")
    write_image(tmp_path / test / "cat" / "one.bmp", pixels[3])
    train, found = (load_images(tmp_path, split, CIFAR10) for split in ("train", "test"))
    np.testing.assert_array_equal(train.images, pixels)  # the classes take turns
    np.testing.assert_array_equal(train.labels, labels)
    np.testing.assert_array_equal(found.images, pixels[3:4])
    assert found.labels.tolist() == [3]
    assert train.class_names == found.class_names == CIFAR10.class_names


def test_a_limit_takes_from_all_classes(write_split, tmp_path):
    write_split(tmp_path / "test")
    data = load_images(tmp_path, "test", CIFAR10, limit=13)
    np.testing.assert_array_equal(data.labels, np.arange(13) % 10)


def test_the_data_sets_classes_keep_its_order(write_image, pixels, tmp_path):
    for name in ("lawn_mower", "Lamp"):  # in the data set's order "lamp" comes first
        write_image(tmp_path / "test" / name / "0.png", pixels[0])
    data = load_images(tmp_path, "test", CIFAR100)
    assert {data.class_names[label] for label in data.labels} == {"lamp", "lawn mower"}


def test_other_classes_are_sorted_by_name(write_split, pixels, tmp_path):
    write_split(tmp_path / "test", OWN_NAMES[::-1])
    data = load_images(tmp_path, "test", CIFAR10)
    assert data.class_names == OWN_NAMES
    assert data.labels[:3].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(data.images[0], pixels[9])


def test_a_class_without_test_images_does_not_shift_the_others(
    write_split, write_image, pixels, tmp_path
):
    write_split(tmp_path / "train", OWN_NAMES)
    write_image(tmp_path / "test" / "cheese j" / "0.png", pixels[0])
    data = load_images(tmp_path, "test", CIFAR10)
    assert data.labels.tolist() == [9]
    assert data.class_names == OWN_NAMES


def test_wordnet_numbers_are_imagenets_classes(write_image, pixels, tmp_path):
    for index in range(1000):
        (tmp_path / "val" / f"n{index:08d}").mkdir(parents=True)
    write_image(tmp_path / "val" / "n00000007" / "0.jpeg", pixels[0])
    data = load_images(tmp_path, "test", IMAGENET)
    assert data.class_names == IMAGENET.class_names
    assert data.labels.tolist() == [7]
    assert data.images.shape == (1, 224, 224, 3)


@READ
def test_a_missing_split(write_split, tmp_path, read):
    write_split(tmp_path / "train")
    (tmp_path / "test" / "cat").mkdir(parents=True)
    error = refusal(read, tmp_path)
    assert (error.path, error.name) == (str(tmp_path), "test")
    assert error.found is None


@READ
def test_a_class_that_the_training_split_has_not(write_split, write_image, pixels, tmp_path, read):
    write_split(tmp_path / "train")
    write_image(tmp_path / "test" / "zebra" / "0.png", pixels[0])
    error = refusal(read, tmp_path)
    assert error.path == str(tmp_path / "test")
    assert error.extra == ("zebra",)


@READ
def test_a_folder_too_many_is_named(write_split, tmp_path, read):
    write_split(tmp_path / "train", OWN_NAMES)
    (tmp_path / "train" / "__MACOSX").mkdir()
    (tmp_path / "train" / "__MACOSX" / "._00.png").write_bytes(b"123")
    error = refusal(read, tmp_path, "train")
    assert (error.found, error.expected) == (11, 10)
    assert error.extra == ("__MACOSX",)


@pytest.mark.parametrize("name", [b"caf\xe9", "a\u2028b".encode(), b"a\nb"])
@pytest.mark.parametrize("read", [load_images, index_images, check_source])
def test_a_folder_that_cannot_name_a_class(write_split, tmp_path, read, name):
    names = (os.fsdecode(name), *OWN_NAMES[1:])
    write_split(tmp_path / "train", names)
    error = refusal(read, tmp_path, "train")
    assert isinstance(error, ClassNameError)
    assert error.name == names[0]
    assert error.path == str(tmp_path / "train")
    error.problem.encode()  # the name is escaped


# Images


def test_images_are_resized_and_cropped_as_by_the_client(write_image, tmp_path):
    wide = np.random.default_rng(3).integers(0, 256, (60, 200, 3), np.uint8)
    path = write_image(tmp_path / "test" / "cat" / "wide.png", wide)
    data = load_images(tmp_path, "test", CIFAR10)
    np.testing.assert_array_equal(data.images[0], Preprocessing(32, 32, 32)(path))


def test_an_image_of_the_right_size_keeps_its_pixels(write_image, tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (224, 224, 3), np.uint8)
    write_image(tmp_path / "val" / "tench" / "0.png", pixels)
    data = load_images(tmp_path, "test", IMAGENET)
    np.testing.assert_array_equal(data.images[0], pixels)
    assert data.labels.tolist() == [0]


def test_the_fingerprint_is_that_of_the_parquet_files(write_image, tmp_path, tiny_cifar):
    tiny = load_images(tiny_cifar, "test", CIFAR10)
    for row, (pixels, label) in enumerate(zip(tiny.images, tiny.labels, strict=True)):
        write_image(tmp_path / "test" / tiny.class_names[label] / f"{row}.png", pixels)
    assert load_images(tmp_path, "test", CIFAR10).fingerprint == tiny.fingerprint


@pytest.mark.parametrize("damage", ["empty", "text", "truncated"])
def test_an_unreadable_image_is_named_or_left_out(write_split, tmp_path, caplog, damage):
    folder = write_split(tmp_path / "test")
    path = folder / "cat" / "03.png"
    path.write_bytes(
        {"empty": b"", "text": b"not an image", "truncated": path.read_bytes()[:-400]}[damage]
    )
    error = refusal(load_images, tmp_path)
    assert isinstance(error, UnreadableImageError)
    assert error.name == str(path)

    found = load_images(tmp_path, "test", CIFAR10, on_unreadable="skip")
    assert found.unreadable == (str(path),)
    assert str(path) in caplog.messages[-1]
    of_each = np.bincount(found.labels)
    assert of_each.tolist() == [1 if name == "cat" else 2 for name in CIFAR10.class_names]
    path.unlink()
    assert found.fingerprint == load_images(tmp_path, "test", CIFAR10).fingerprint


# Formats, and what is skipped


def encode(kind: str, colour: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 32), colour).save(stream, kind)
    return stream.getvalue()


def decoded_colours(folder: Path, reader: str) -> np.ndarray:
    """Mean colour of each image of the training split, by either reader, ``[N, 3]``."""
    if reader == "memory":
        return load_images(folder, "train", CIFAR10).images.mean((1, 2))
    images = index_images(folder, "train", CIFAR10)
    batches = stream_batches(
        images,
        training=False,
        batch_size=len(images),
        num_workers=0,
        seed=0,
        task=CIFAR10,
        on_unreadable="fail",
    )
    (batch,) = [images for images, _ in batches]
    return batch.numpy().mean((1, 2))


@pytest.mark.parametrize("reader", ["memory", "streaming"])
def test_every_format_in_one_class_folder_is_read(tmp_path, reader):
    folder = tmp_path / "train" / "cat"
    folder.mkdir(parents=True)
    formats = [kind for kind in decodable_formats() for suffix in FORMATS[kind]]
    suffixes = [suffix for kind in decodable_formats() for suffix in FORMATS[kind]]
    assert {".png", ".jpg", ".jp2", ".avif", ".webp", ".tif", ".ppm", ".gif"} <= set(suffixes)
    expected = {}
    for number, (kind, suffix) in enumerate(zip(formats, suffixes, strict=True)):
        colour = (10 * number, 255 - 10 * number, 100)
        # Half of the suffixes in upper case, as cameras write them.
        name = f"{number:02d}{suffix.upper() if number % 2 else suffix}"
        (folder / name).write_bytes(encode(kind, colour))
        expected[name] = colour
    colours = decoded_colours(tmp_path, reader)
    assert len(colours) == len(expected)
    np.testing.assert_allclose(colours, [expected[name] for name in sorted(expected)], atol=8)


@READ
def test_what_is_skipped_is_counted_and_logged_once(
    write_split, write_image, pixels, tmp_path, caplog, read
):
    folder = write_split(tmp_path / "train")
    (folder / "cat" / "notes.txt").touch()
    (folder / "cat" / "photo.XCF").touch()
    (folder / "dog" / "photo.xcf").touch()
    (folder / "dog" / "Makefile").touch()
    (folder / "cat" / ".DS_Store").touch()
    (folder / "cat" / "._03.png").write_bytes(b"123")
    (folder / "cat" / "lost.png").symlink_to(tmp_path / "gone.png")
    (folder / "cat" / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "cat" / "pipe.png")
    write_image(folder / "cat" / "more" / "0.png", pixels[0])
    (folder / "cat" / "sealed").mkdir(mode=0)
    (folder / "cat" / "folder.png").mkdir()
    write_image(folder / "here.png", pixels[0])
    (folder / "unplugged").symlink_to(tmp_path / "gone")
    (folder / "README.txt").touch()
    (folder / ".cache").mkdir()

    found = read(tmp_path, "train", CIFAR10)

    assert len(found) == 20
    assert found.skipped.kinds == {
        ".xcf": 2,
        ".txt": 1,
        "without suffix": 1,
        "hidden": 2,
        "folder": 3,
        "broken link": 3,
        "special file": 1,
        "outside class folders": 1,
    }
    assert found.skipped.total == 14
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "14 files" in line
    assert "2 .xcf" in line
    assert all(name in line for name in found.skipped.names)


def test_files_of_the_system_are_no_reason_to_warn(write_split, tmp_path, caplog):
    folder = write_split(tmp_path / "train")
    (folder / "cat" / ".DS_Store").touch()
    caplog.set_level("INFO", "delugeserve")
    assert load_images(tmp_path, "train", CIFAR10).skipped.kinds == {"hidden": 1}
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert "cat/.DS_Store" in caplog.text


@READ
def test_class_folders_without_any_known_format(tmp_path, read):
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "0.xcf").touch()
    error = refusal(read, tmp_path, "train")
    assert error.name == "train"
    assert error.found.kinds == {".xcf": 2}


def test_a_link_to_an_image_is_read(write_image, pixels, tmp_path):
    path = write_image(tmp_path / "store" / "0.png", pixels[0])
    folder = tmp_path / "images" / "train" / "cat"
    folder.mkdir(parents=True)
    (folder / "0.png").symlink_to(path)
    data = load_images(tmp_path / "images", "train", CIFAR10)
    np.testing.assert_array_equal(data.images[0], pixels[0])
    assert data.skipped.total == 0


def test_the_readers_know_every_suffix_of_the_list(tmp_path):
    folder = tmp_path / "train" / "cat"
    folder.mkdir(parents=True)
    for suffix in SUFFIXES:
        (folder / f"0{suffix}").touch()
    assert len(index_images(tmp_path, "train", CIFAR10)) == len(SUFFIXES)
