"""Sources of any classes: forms, splits, class names, held-out images, memory."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flowers import (
    COLOURS,
    FLOWERS,
    FORMS,
    as_parquet,
    as_tar_of_folders,
    colours_agree,
    photo,
    task_of,
    write,
    write_csv,
    write_folders,
    write_tar,
)

from delugeserve.data import decoding
from delugeserve.data.catalogue import open_source
from delugeserve.data.datasets import LabelledImages, check_source, load_images
from delugeserve.data.encoded import EncodedImages
from delugeserve.errors import DatasetError
from delugeserve.zoo import CIFAR10, IMAGENET, Task

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


# Forms


@pytest.mark.parametrize("make", FORMS)
def test_every_form_gives_the_same_images(tmp_path, make: Callable[[Path], Path]):
    catalogue = open_source(make(tmp_path / "flowers"), val_fraction=0.2)
    assert catalogue.class_names == ("daisy", "rose", "tulip")
    assert catalogue.splits == ("train", "validation")
    assert catalogue.held_out == 0.2
    assert catalogue.counts("train").tolist() == [4, 4, 4]
    assert catalogue.counts("validation").tolist() == [1, 1, 1]
    parts = [catalogue.load(split, task_of(catalogue)) for split in catalogue.splits]
    assert all(map(colours_agree, parts))
    everything = {image.tobytes() for part in parts for image in part.images}
    assert len(everything) == len(FLOWERS)


@pytest.mark.parametrize("make", FORMS)
def test_load_images_holds_out_the_same(tmp_path, make: Callable[[Path], Path]):
    source = make(tmp_path / "flowers")
    catalogue = open_source(source)
    task = task_of(catalogue)
    for split, same in (("train", "train"), ("validation", "test")):
        check_source(source, same, task)
        ours = catalogue.load(split, task)
        assert ours.fingerprint == load_images(source, same, task).fingerprint


def test_training_images_alone_are_divided_for_a_task_that_was_trained_so(tmp_path, caplog):
    caplog.set_level("INFO", "delugeserve")
    write_folders(tmp_path / "train")
    catalogue = open_source(tmp_path)
    task = task_of(catalogue)
    held = load_images(tmp_path, "test", task)
    assert held.fingerprint == catalogue.load("validation", task).fingerprint
    assert len(load_images(tmp_path, "train", task)) + len(held) == len(FLOWERS)
    assert any("has no test split" in line for line in caplog.messages)
    registered = dataclasses.replace(task, name="cifar10")  # it was trained on all of them
    with pytest.raises(DatasetError):
        load_images(tmp_path, "test", registered)
    assert len(load_images(tmp_path, "train", registered)) == len(FLOWERS)


def test_splits_on_disk_are_used(tmp_path):
    for split in ("Train", "val", "test"):
        write_folders(tmp_path / split, FLOWERS[:6])
    catalogue = open_source(tmp_path)
    assert catalogue.splits == ("train", "validation", "test")
    assert catalogue.held_out is None
    assert len(load_images(tmp_path, "validation", task_of(catalogue))) == 6


def test_a_column_of_splits(tmp_path):
    write_folders(tmp_path / "images")
    splits = ["train", "train", "val", "test", "train"]
    rows = [(f"images/{n}/{i}.jpg", n, splits[i]) for n, i in FLOWERS]
    path = write_csv(tmp_path / "flowers.csv", [("file_name", "class", "split"), *rows])
    catalogue = open_source(path)
    assert {split: len(catalogue.images[split]) for split in catalogue.splits} == {
        "train": 9,
        "validation": 3,
        "test": 3,
    }


@pytest.mark.parametrize("options", [{}, {"delimiter": ";"}, {"delimiter": "\t"}])
def test_csv_dialects_and_absolute_paths(tmp_path, options):
    write_folders(tmp_path / "elsewhere")
    rows = [(tmp_path / "elsewhere" / n / f"{i}.jpg", n) for n, i in FLOWERS]
    path = write_csv(tmp_path / "here" / "l.csv", [("Image", "Label"), *rows], **options)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as Excel writes it
    catalogue = open_source(path)
    assert colours_agree(catalogue.load("train", task_of(catalogue)))


def test_a_class_of_a_vehicle_data_set_may_be_called_train(tmp_path):
    for name in ("train", "bus"):
        write(tmp_path / name / "0.jpg", photo((1, 2, 3)))
        write(tmp_path / name / "1.jpg", photo((1, 2, 4)))
    assert open_source(tmp_path).class_names == ("bus", "train")


@pytest.mark.parametrize("divided", [False, True])
def test_the_archive_beside_the_unpacked_images_is_not_read(tmp_path, divided):
    write_folders(tmp_path / "train" if divided else tmp_path)
    as_tar_of_folders(tmp_path)
    assert open_source(tmp_path).form == "class folders"


def test_the_folder_of_a_split_is_that_split(tmp_path):
    for split in ("train", "test"):
        write_folders(tmp_path / split)
    catalogue = open_source(tmp_path / "test")
    assert catalogue.splits == ("test",)
    write_folders(tmp_path / "alone" / "test")  # just a name
    assert open_source(tmp_path / "alone" / "test").splits == ("train", "validation")


def test_webdataset_numbers_with_names_beside_them(tmp_path):
    files: dict[str, bytes] = {}
    for row, (name, number) in enumerate(FLOWERS):
        label = {"label": ["daisy", "rose", "tulip"].index(name)}
        files |= {
            f"{row:04}.jpg": photo(COLOURS[name], number),
            f"{row:04}.json": json.dumps(label).encode(),
            f"{row:04}.txt": b"a caption",
        }
    write_tar(tmp_path / "train" / "0000.tar", files)
    (tmp_path / "classnames.txt").write_text("daisy\nrose\ntulip\n")
    catalogue = open_source(tmp_path)
    assert catalogue.named
    assert colours_agree(catalogue.load("train", task_of(catalogue)))


def test_class_names_with_commas_and_in_other_scripts(tmp_path):
    names = ("Mütze, rot", "帽子", "قبعة")
    rows = [("path", "label")]
    for name in names:
        for number in range(2):
            write(tmp_path / "images" / name / f"{number}.jpg", photo((9, 9, 9), number))
            rows.append((f"images/{name}/{number}.jpg", name))
    folders = open_source(tmp_path / "images")
    table = open_source(write_csv(tmp_path / "labels.csv", rows))
    assert folders.class_names == table.class_names == tuple(sorted(names))


@pytest.mark.parametrize("make", FORMS)
def test_a_pickled_copy_reads_the_same(tmp_path, make: Callable[[Path], Path]):
    images = open_source(make(tmp_path / "flowers")).index("train")
    copy = pickle.loads(pickle.dumps(images))
    assert copy.fingerprint == images.fingerprint
    for index in range(len(images)):
        assert copy.name(index) == images.name(index)
        assert copy[index] == images[index]


def test_images_of_a_row_group_stay_together_when_some_are_held_out(tmp_path):
    images = open_source(as_parquet(tmp_path), val_fraction=0.2).images
    for split in ("train", "validation"):
        starts = images[split].starts.tolist()
        groups = images[split].rows // 4  # as_parquet writes groups of four
        changes = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist()]
        assert starts == changes


# Classes


@pytest.mark.parametrize("numbered", [False, True])
def test_a_test_split_without_the_first_class(tmp_path, numbered):
    write_folders(tmp_path)
    label = {name: number for number, name in enumerate(sorted(COLOURS))}
    for split in ("train", "test"):
        rows = [
            (f"{name}/{number}.jpg", label[name] if numbered else name)
            for name, number in FLOWERS
            if split == "train" or (name != "daisy" and number == 0)
        ]
        write_csv(tmp_path / f"{split}.csv", [("path", "label"), *rows])
    catalogue = open_source(tmp_path)
    assert catalogue.class_names == (("0", "1", "2") if numbered else ("daisy", "rose", "tulip"))
    assert catalogue.counts("test").tolist() == [0, 1, 1]


def test_numbers_without_names(tmp_path):
    rows = [photo((9, 9, 9), number) for number in range(6)]
    labels = [3, 17, 250, 3, 17, 250]
    pq.write_table(pa.table({"image": rows, "label": labels}), tmp_path / "a.parquet")
    catalogue = open_source(tmp_path, val_fraction=0)
    assert not catalogue.named
    assert catalogue.class_names == ("3", "17", "250")
    task = task_of(catalogue)
    assert catalogue.load("train", task).labels.tolist() == [0, 1, 2, 0, 1, 2]
    loaded = load_images(tmp_path, "train", task)
    assert loaded.class_names == ("3", "17", "250")
    assert not catalogue.has_classes_of(CIFAR10)


@pytest.mark.parametrize(
    ("labels", "names", "cifar"),
    [
        (range(10), tuple(map(str, range(10))), True),
        (range(1990, 2000), tuple(map(str, range(1990, 2000))), False),
        (range(11), tuple(map(str, range(11))), False),
        (["007", "008", "9"], ("007", "008", "9"), False),
    ],
)
def test_numbers_in_a_table(tmp_path, labels, names, cifar):
    write(tmp_path / "0.jpg", b"")
    rows = [("path", "label")]
    for label in labels:
        write(tmp_path / f"{label}.jpg", b"")
        rows.append((f"{label}.jpg", str(label)))
    catalogue = open_source(write_csv(tmp_path / "l.csv", rows), val_fraction=0)
    assert catalogue.class_names == names
    assert catalogue.has_classes_of(CIFAR10) is cifar


@pytest.mark.parametrize(
    ("names", "task", "same"),
    [
        (CIFAR10.class_names[::-1], CIFAR10, True),
        (tuple(map(str.upper, CIFAR10.class_names)), CIFAR10, True),
        (CIFAR10.class_names[:4], CIFAR10, False),
        ((*CIFAR10.class_names, "zebra"), CIFAR10, False),
        (("rose", *CIFAR10.class_names[1:]), CIFAR10, False),
        (tuple(f"n{number:08d}" for number in range(1000)), IMAGENET, True),
    ],
)
def test_whether_the_classes_are_a_tasks(tmp_path, names, task, same):
    for name in names[:-1]:
        write(tmp_path / name / "0.jpg", b"")
    (tmp_path / names[-1]).mkdir()  # a class without images is one of the task's all the same
    write(tmp_path / names[0] / "1.jpg", b"")
    catalogue = open_source(tmp_path)
    assert catalogue.has_classes_of(task) is same
    assert catalogue.empty_classes == (names[-1],)
    if same:
        images = catalogue.index("train", task)
        assert images.class_names == task.class_names
        expected = sorted(
            task.class_names.index(name.lower()) if task is CIFAR10 else names.index(name)
            for name in names[:-1]
        )
        assert sorted(images.labels.tolist()) == expected


def test_a_folder_without_images_is_no_class_for_training_nor_evaluation(tmp_path):
    write_folders(tmp_path)
    (tmp_path / "notes").mkdir()
    catalogue = open_source(tmp_path)
    assert catalogue.class_names == ("daisy", "rose", "tulip")
    assert catalogue.empty_classes == ("notes",)
    assert load_images(tmp_path, "test", task_of(catalogue)).class_names == catalogue.class_names


def test_labels_follow_the_order_of_the_task(tmp_path):
    catalogue = open_source(write_folders(tmp_path))
    task = Task("f", "F", ("tulip", "daisy", "rose"), 16, 16, (0.5,) * 3, (0.5,) * 3)
    images = catalogue.load("train", task)
    assert images.class_names == task.class_names
    assert colours_agree(images)


def test_classes_that_differ_only_in_case_stay_apart(tmp_path):
    for name in ("A", "a"):
        for number in range(3):
            write(tmp_path / name / f"{number}.jpg", photo((9, 9, 9), number))
    catalogue = open_source(tmp_path)
    assert catalogue.class_names == ("A", "a")
    task = Task("f", "F", ("a", "A"), 16, 16, (0.5,) * 3, (0.5,) * 3)
    before = catalogue.index("train").labels
    assert (catalogue.index("train", task).labels == 1 - before).all()


# Held-out images


def names_of(images: EncodedImages) -> set[str]:
    return {images.name(index) for index in range(len(images))}


def test_held_out_images_depend_on_the_seed_and_stay_when_images_are_added(tmp_path):
    flowers = [(name, number) for number in range(40) for name in COLOURS]
    write_folders(tmp_path, flowers)
    first, again = (open_source(tmp_path, seed=1) for _ in range(2))
    held = names_of(first.images["validation"])
    assert held == names_of(again.images["validation"])
    assert first.counts("validation").tolist() == [4, 4, 4]
    assert not held & names_of(first.images["train"])
    assert held != names_of(open_source(tmp_path, seed=2).images["validation"])
    write_folders(tmp_path, [(name, number) for number in range(40, 50) for name in COLOURS])
    later = names_of(open_source(tmp_path, seed=1).images["validation"])
    assert len(held & later) >= 8  # of 12; drawn anew it would be one or two
    assert open_source(tmp_path, val_fraction=0).splits == ("train",)


def test_a_class_with_one_image_is_trained_on(tmp_path):
    write_folders(tmp_path, [*FLOWERS[:8], ("tulip", 0)])
    (tmp_path / "tulip" / "1.jpg").unlink()
    counts = [open_source(tmp_path).counts(split).tolist() for split in ("train", "validation")]
    assert counts == [[2, 2, 1], [1, 1, 0]]


# Memory


def test_what_fits_is_read_and_what_does_not_is_listed(tmp_path, monkeypatch):
    catalogue = open_source(write_folders(tmp_path))
    task = task_of(catalogue)
    assert isinstance(catalogue.read("train", task), LabelledImages)
    monkeypatch.setattr("delugeserve.data.decoding.available_memory", lambda: 16 * 16 * 3 * 20)
    assert isinstance(catalogue.read("train", task), EncodedImages)
    assert isinstance(catalogue.read("train", task, limit=5), LabelledImages)


def test_available_memory_is_a_containers(monkeypatch):
    files = {
        "/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n",
        "/sys/fs/cgroup/memory.max": "max\n",
        "/sys/fs/cgroup/memory.current": "1000000\n",
    }
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: files[str(path)])
    assert decoding.available_memory() == 8000 * 1024
    files["/sys/fs/cgroup/memory.max"] = "3000000\n"
    assert decoding.available_memory() == 2_000_000


def test_loaded_images_have_names(tmp_path):
    catalogue = open_source(write_folders(tmp_path))
    write(tmp_path / "rose" / "1.jpg", b"broken")
    images = catalogue.load("train", task_of(catalogue), on_unreadable="skip")
    assert images.encoded is not None
    for index, label in enumerate(images.labels):
        assert Path(images.encoded.name(index)).parent.name == images.class_names[label]
