"""What all sources of images have in common."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delugeserve.data import hub
from delugeserve.data.datasets import check_source, fingerprint, index_images, load_images
from delugeserve.errors import DatasetError
from delugeserve.zoo import CIFAR10, IMAGENET

# Public data sets


def test_a_public_data_set_is_downloaded(write_parquet, tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    write_parquet(tmp_path / "snapshot/plain_text/test-00000-of-00001.parquet")
    asked: dict[str, Any] = {}

    def download(**options: Any) -> str:
        asked.update(options)
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    assert len(load_images("cifar10", "test", CIFAR10)) == 20
    assert asked == {
        "repo_id": "uoft-cs/cifar10",
        "repo_type": "dataset",
        "allow_patterns": ["*/test-*.parquet"],
    }


def test_a_folder_with_the_name_of_a_public_data_set_has_priority(
    write_parquet, tmp_path, monkeypatch
):
    monkeypatch.setattr(hub, "download", lambda *_: pytest.fail("it was downloaded"))
    monkeypatch.chdir(tmp_path)
    write_parquet(tmp_path / "cifar10" / "test.parquet")
    assert len(load_images("cifar10", "test", CIFAR10)) == 20


def test_a_failed_download_gives_one_line_of_the_reason(tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def download(**_: Any) -> str:
        raise ConnectionError("Name or service not known\nand much more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError) as caught:
        load_images("cifar10", "test", CIFAR10)
    assert caught.value.name == "cifar10"
    assert caught.value.found == "Name or service not known"


def test_checking_a_public_data_set_does_not_download_it(monkeypatch):
    monkeypatch.setattr(hub, "download", lambda *_: pytest.fail("it was downloaded"))
    check_source("cifar10", "test", CIFAR10)


# Sources that cannot be read


@pytest.mark.parametrize(
    ("source", "nearest"),
    [("cifar-10", "cifar10"), ("CIFAR100", "cifar100"), ("data/some/nowhere", None)],
)
def test_a_missing_source_suggests_the_nearest_public_data_set(
    tmp_path, monkeypatch, source, nearest
):
    monkeypatch.chdir(tmp_path)
    for read in (load_images, check_source):
        with pytest.raises(DatasetError) as caught:
            read(source, "test", CIFAR10)
        assert caught.value.path == source
        assert caught.value.name == nearest
        assert (nearest or "'cifar10' or 'cifar100'") in caught.value.remedy


@pytest.mark.parametrize("task", [CIFAR10, IMAGENET], ids=lambda task: task.name)
@pytest.mark.parametrize("source", [".", "notes.txt"])
def test_a_source_without_images(tmp_path, source, task):
    (tmp_path / "notes.txt").write_text("nothing here")
    for read in (load_images, index_images, check_source):
        with pytest.raises(DatasetError) as caught:
            read(tmp_path / source, "test", task)
        assert caught.value.path == str(tmp_path / source)


@pytest.mark.parametrize("read", [load_images, index_images])
def test_a_limit_below_one(tmp_path, read):
    with pytest.raises(DatasetError) as caught:
        read(tmp_path, "test", CIFAR10, limit=0)
    assert caught.value.found == 0


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", "images/secret.parquet")

    monkeypatch.setattr("delugeserve.data.readers.parquet.find_files", refuse)
    for read in (load_images, index_images, check_source):
        with pytest.raises(DatasetError) as caught:
            read(tmp_path, "test", CIFAR10)
        assert caught.value.path == "images/secret.parquet"


def test_more_images_than_memory(write_parquet, tmp_path, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 16)
    path = write_parquet(tmp_path / "test.parquet")
    with pytest.raises(DatasetError) as caught:
        load_images(tmp_path, "test", CIFAR10)
    assert caught.value.path == str(path)
    assert caught.value.expected == 256
    assert caught.value.found == 20 * 32 * 32 * 3


@pytest.mark.parametrize(
    "files",
    [
        ["test.parquet"],
        ["plain_text/test/0000.parquet"],
        ["test/cat/1.png"],
        ["cifar-10-batches-py/test_batch", "cifar-10-batches-py/batches.meta"],
        ["cifar-10-python.tar.gz"],
    ],
    ids=lambda files: files[0],
)
def test_a_layout_is_recognised_by_the_names_of_its_files(tmp_path, files):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()  # empty, so opening one would fail
    check_source(tmp_path, "test", CIFAR10)
    if not files[0].endswith(".tar.gz"):  # its content is not known before it is read
        with pytest.raises(DatasetError) as caught:
            check_source(tmp_path, "train", CIFAR10)
        assert str(caught.value.path).startswith(str(tmp_path))


# The fingerprint


@given(st.permutations(range(20)))
def test_the_fingerprint_does_not_depend_on_the_order(pixels, labels, order):
    first = fingerprint(pixels, labels)
    assert fingerprint(pixels[order], labels[order]) == first
    assert len(bytes.fromhex(first)) == 32


def test_the_fingerprint_depends_on_each_pixel_label_and_the_shape(pixels, labels):
    brighter, relabelled = pixels.copy(), labels.copy()
    brighter[3, 4, 5, 1] ^= 1
    relabelled[3] += 1
    fingerprints = {
        fingerprint(pixels, labels),
        fingerprint(brighter, labels),
        fingerprint(pixels, relabelled),
        fingerprint(pixels.reshape(20, 16, 64, 3), labels),
        fingerprint(pixels[:-1], labels[:-1]),
    }
    assert len(fingerprints) == 5


# What is logged


def lines(caplog, level: int = logging.INFO) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def test_the_sizes_of_the_images_are_logged(write_image, tmp_path, caplog):
    caplog.set_level("INFO", "delugeserve")
    for name, (width, height) in (("cat", (48, 40)), ("dog", (300, 200)), ("frog", (32, 32))):
        write_image(tmp_path / "train" / name / "0.png", np.zeros((height, width, 3), np.uint8))
    load_images(tmp_path, "train", CIFAR10)
    assert lines(caplog) == [
        "train: 3 images of 10 classes, 32x32 to 300x200 pixels, resized and cropped to 32x32"
    ]


def test_images_of_the_right_size_are_not_said_to_be_resized(tiny_cifar, caplog):
    caplog.set_level("INFO", "delugeserve")
    load_images(tiny_cifar, "train", CIFAR10)
    assert lines(caplog) == ["train: 200 images of 10 classes, 32x32 pixels"]


# Real images


@pytest.mark.data
def test_reads_cifar10(cifar10_dir: Path):
    data = load_images(cifar10_dir, "test", CIFAR10)
    assert data.images.shape == (10_000, 32, 32, 3)
    assert np.bincount(data.labels).tolist() == [1000] * 10
    assert data.class_names == CIFAR10.class_names
    # The mean brightness differs between classes, so pixels and labels belong together.
    assert 110 < data.images.mean() < 130
    by_class = [data.images[data.labels == label].mean() for label in range(10)]
    assert by_class[0] - by_class[6] > 20  # airplanes in the sky, frogs on the ground


def test_the_tiny_data_set_can_be_learned(tiny_cifar: Path):
    train = load_images(tiny_cifar, "train", CIFAR10)
    test = load_images(tiny_cifar, "test", CIFAR10)
    assert (len(train), len(test)) == (200, 100)
    assert np.bincount(train.labels).tolist() == [20] * 10
    means = np.stack([train.images[train.labels == label].mean((0, 1, 2)) for label in range(10)])
    colours = test.images.mean((1, 2))
    nearest = ((colours[:, None] - means) ** 2).sum(2).argmin(1)
    np.testing.assert_array_equal(nearest, test.labels)


def test_classes_of_a_classifier_must_be_those_of_the_images(tiny_cifar: Path):
    data = load_images(tiny_cifar, "test", CIFAR10)
    data.require_classes(CIFAR10.class_names, "The checkpoint")
    for names in ((*CIFAR10.class_names[:-1], "zebra"), CIFAR10.class_names[::-1]):
        with pytest.raises(DatasetError) as caught:
            data.require_classes(names, "The checkpoint")
        assert caught.value.expected == names
        assert caught.value.extra == (("truck",) if "zebra" in names else ())
        assert caught.value.missing == (("zebra",) if "zebra" in names else ())
