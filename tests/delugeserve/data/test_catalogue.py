"""Sources of any classes: forms, splits, class names, and every way in which they can be bad."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import pickle
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from delugeserve.data import decoding
from delugeserve.data.catalogue import Catalogue, open_source
from delugeserve.data.datasets import LabelledImages, check_source, load_images
from delugeserve.data.encoded import EncodedImages
from delugeserve.errors import ClassNameError, DatasetError, UnreadableImageError
from delugeserve.zoo import CIFAR10, IMAGENET, Task

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

PAGE = Path(__file__).parents[3] / "docs" / "data.md"
COLOURS = {"rose": (200, 30, 60), "daisy": (240, 240, 230), "tulip": (230, 180, 20)}


def photo(colour: Sequence[int], number: int = 0, size: tuple[int, int] = (48, 40)) -> bytes:
    """A JPEG of one colour and a number of its own."""
    image = Image.new("RGB", size, tuple(colour))
    image.paste((number * 47 % 256, number * 31 % 256, number), (0, 0, 8, 8))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95)
    return stream.getvalue()


FLOWERS = [(name, number) for number in range(5) for name in COLOURS]


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_folders(folder: Path, flowers: Iterable[tuple[str, int]] = FLOWERS) -> Path:
    for name, number in flowers:
        write(folder / name / f"{number}.jpg", photo(COLOURS[name], number))
    return folder


def write_csv(path: Path, rows: Iterable[Sequence[Any]], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, **options).writerows(rows)
    return path


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def as_folders(folder: Path) -> Path:
    return write_folders(folder)


def as_csv(folder: Path) -> Path:
    write_folders(folder / "images")
    rows = [(f"images/{name}/{number}.jpg", name) for name, number in FLOWERS]
    return write_csv(folder / "labels.csv", [("path", "label"), *rows])


def as_parquet(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    images = [photo(COLOURS[name], number) for name, number in FLOWERS]
    table = pa.table({"image": images, "label": [name for name, _ in FLOWERS]})
    pq.write_table(table, folder / "flowers.parquet", row_group_size=4)
    return folder


def as_parquet_of_paths(folder: Path) -> Path:
    write_folders(folder / "images")
    paths = [f"images/{name}/{number}.jpg" for name, number in FLOWERS]
    table = pa.table({"file_name": paths, "label": [name for name, _ in FLOWERS]})
    pq.write_table(table, folder / "flowers.parquet")
    return folder


def as_webdataset(folder: Path) -> Path:
    files = {}
    for row, (name, number) in enumerate(FLOWERS):
        files[f"{row:04}.jpg"] = photo(COLOURS[name], number)
        files[f"{row:04}.cls"] = name.encode()
    half = 2 * 9
    write_tar(folder / "flowers-000000.tar", dict(list(files.items())[:half]))
    write_tar(folder / "flowers-000001.tar", dict(list(files.items())[half:]))
    return folder


def as_tar_of_folders(folder: Path) -> Path:
    files = {f"{name}/{number}.jpg": photo(COLOURS[name], number) for name, number in FLOWERS}
    return write_tar(folder / "flowers.tar", files)


FORMS = [as_folders, as_csv, as_parquet, as_parquet_of_paths, as_webdataset, as_tar_of_folders]


def task_of(catalogue: Catalogue, size: int = 16) -> Task:
    half = (0.5, 0.5, 0.5)
    return Task("flowers", "Flowers", catalogue.class_names, size, size, half, half)


def colours_agree(images: LabelledImages) -> bool:
    """Whether each image has the colour of its class."""
    means = images.images[:, 4:, 4:].mean((1, 2))
    wanted = np.array([COLOURS[images.class_names[label]] for label in images.labels])
    return bool((np.abs(means - wanted) < 8).all())


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


# Bad data. docs/data.md shows what each case prints.


def flat(folder: Path) -> Path:
    return write_folders(folder)


def no_path(folder: Path) -> Path:
    return folder


def empty_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def class_names_by_case_in_splits(folder: Path) -> Path:
    write_folders(folder / "train")
    write(folder / "test" / "Rose" / "0.jpg", photo((1, 1, 1)))
    return folder


def other_class_in_test(folder: Path) -> Path:
    write_folders(folder / "train")
    write(folder / "test" / "orchid" / "0.jpg", photo((1, 1, 1)))
    return folder


def class_without_training_images(folder: Path) -> Path:
    write_folders(folder / "train")
    (folder / "train" / "orchid").mkdir()
    write(folder / "test" / "orchid" / "0.jpg", photo((1, 1, 1)))
    return folder


def line_break(folder: Path) -> Path:
    write(folder / "ro\nse" / "0.jpg", photo((1, 1, 1)))
    return folder


def too_few(folder: Path) -> Path:
    return write_folders(folder, FLOWERS[:3])


def unknown_formats(folder: Path) -> Path:
    write(folder / "train" / "rose" / "0.heic", b"123")
    return folder


def two_validation_splits(folder: Path) -> Path:
    for name in ("train", "val", "validation"):
        write_folders(folder / name)
    return folder


def csv_without_header(folder: Path) -> Path:
    write_folders(folder)
    return write_csv(folder / "l.csv", [(f"{n}/{i}.jpg", n) for n, i in FLOWERS])


def csv_with_missing_files(folder: Path) -> Path:
    rows = [("path", "label"), ("rose/0.jpg", "rose"), ("tulip/7.jpg", "tulip")]
    write_folders(folder)
    return write_csv(folder / "l.csv", rows)


def csv_with_an_unknown_column(folder: Path) -> Path:
    return write_csv(folder / "l.csv", [("path", "flower"), ("rose/0.jpg", "rose")])


def csv_without_a_label(folder: Path) -> Path:
    write_folders(folder)
    return write_csv(folder / "l.csv", [("path", "label"), ("rose/0.jpg", "")])


def csv_with_two_labels(folder: Path) -> Path:
    write_folders(folder)
    rows = [("path", "label"), ("rose/0.jpg", "rose"), ("rose/0.jpg", "tulip")]
    return write_csv(folder / "l.csv", rows)


def csv_with_a_short_row(folder: Path) -> Path:
    write_folders(folder)
    return write_csv(folder / "l.csv", [("path", "label"), ("rose/0.jpg",)])


def csv_with_an_unknown_split(folder: Path) -> Path:
    write_folders(folder)
    rows = [("path", "label", "split"), ("rose/0.jpg", "rose", "hidden")]
    return write_csv(folder / "l.csv", rows)


def csv_with_a_line_break(folder: Path) -> Path:
    write_folders(folder)
    return write_csv(folder / "l.csv", [("path", "label"), ("rose/0.jpg", "a\nrose")])


def empty_csv(folder: Path) -> Path:
    return write(folder / "l.csv", b"")


def csv_in_another_encoding(folder: Path) -> Path:
    return write(folder / "l.csv", "path,label\na.jpg,Mütze\n".encode("latin-1"))


def truncated_tar(folder: Path) -> Path:
    path = as_tar_of_folders(folder)
    path.write_bytes(path.read_bytes()[:5000])
    return path


def not_a_tar(folder: Path) -> Path:
    return write(folder / "f.tar", b"x" * 2000)


def compressed_tar(folder: Path) -> Path:
    return write(folder / "f.tar.gz", b"x" * 2000)


def tar_without_labels(folder: Path) -> Path:
    return write_tar(folder / "f.tar", {"0.jpg": photo((1, 1, 1))})


def tar_with_splits(folder: Path) -> Path:
    return write_tar(folder / "f.tar", {"train/rose/0.jpg": photo((1, 1, 1))})


def zip_file(folder: Path) -> Path:
    return write(folder / "f.zip", b"PK")


def damaged_parquet(folder: Path) -> Path:
    return write(folder / "train.parquet", b"PAR1 and nothing else")


def loose_images(folder: Path) -> Path:
    write(folder / "train" / "0.jpg", photo((1, 1, 1)))
    return folder


def one_class(folder: Path) -> Path:
    return write_folders(folder, [("rose", number) for number in range(3)])


def only_test(folder: Path) -> Path:
    write_folders(folder / "test")
    return folder


def no_image(folder: Path) -> Path:
    write_folders(folder)
    write(folder / "rose" / "1.jpg", b"no image at all")
    return folder


def truncated_image(folder: Path) -> Path:
    write_folders(folder)
    path = folder / "rose" / "1.jpg"
    path.write_bytes(path.read_bytes()[:600])
    return folder


def read_all(source: Path) -> None:
    """Open a source to train on it, and decode its images."""
    catalogue = open_source(source)
    catalogue.require_training()
    for split in catalogue.splits:
        catalogue.load(split, task_of(catalogue))


BAD: list[tuple[str, Callable[[Path], Path], dict[str, Any]]] = [
    ("The path does not exist", no_path, {}),
    ("A folder without images", empty_folder, {}),
    ("Images without class folders", loose_images, {"name": "flowers/train/0.jpg"}),
    ("Only files of unknown formats", unknown_formats, {"name": "train"}),
    ("A single class", one_class, {"found": 1}),
    ("Test images only", only_test, {"name": "train"}),
    ("Too few images to hold some out", too_few, {"name": "validation"}),
    ("Two validation splits", two_validation_splits, {"name": "validation"}),
    ("A test split with another class", other_class_in_test, {"extra": ("orchid",)}),
    ("Class names that differ in case", class_names_by_case_in_splits, {"extra": ("Rose",)}),
    ("A class with test images only", class_without_training_images, {"extra": ("orchid",)}),
    ("A class name with a line break", line_break, {"name": "ro\nse"}),
    ("A file that is not an image", no_image, {"name": "flowers/rose/1.jpg"}),
    ("A truncated JPEG", truncated_image, {"name": "flowers/rose/1.jpg"}),
    ("CSV: no header", csv_without_header, {"name": "header"}),
    ("CSV: no known column", csv_with_an_unknown_column, {"found": ("path", "flower")}),
    ("CSV: missing files", csv_with_missing_files, {"missing": ("tulip/7.jpg",)}),
    ("CSV: no label", csv_without_a_label, {"name": "Line 2 of flowers/l.csv"}),
    ("CSV: two labels", csv_with_two_labels, {"found": ("rose", "tulip")}),
    ("CSV: a short row", csv_with_a_short_row, {"found": 1}),
    ("CSV: unknown split", csv_with_an_unknown_split, {"found": "hidden"}),
    ("CSV: empty", empty_csv, {}),
    ("CSV: another encoding", csv_in_another_encoding, {}),
    ("tar: truncated", truncated_tar, {}),
    ("tar: not a tar file", not_a_tar, {}),
    ("tar: compressed", compressed_tar, {}),
    ("tar: no labels", tar_without_labels, {"name": "0.jpg"}),
    ("tar: folders of splits", tar_with_splits, {"name": "train/rose/0.jpg"}),
    ("A zip file", zip_file, {}),
    ("Parquet: damaged", damaged_parquet, {}),
]


@pytest.mark.parametrize(("case", "make", "facts"), BAD, ids=[case for case, *_ in BAD])
def test_bad_data(tmp_path, monkeypatch, case, make, facts):
    monkeypatch.chdir(tmp_path)
    source = make(Path("flowers"))
    with pytest.raises(DatasetError) as caught:
        read_all(source)
    error = caught.value
    assert error.exit_code == 2
    assert (error.path or error.name or "").startswith("flowers")
    for fact, value in facts.items():
        assert getattr(error, fact) == value
    for sentence in (error.problem, error.remedy):
        assert sentence.endswith((".", "?"))
        assert "\n" not in sentence
    assert f"| {case} | {error} |" in PAGE.read_text("utf-8").replace("`", "")


def test_a_line_break_is_a_bad_class_name(tmp_path):
    for make in (line_break, csv_with_a_line_break):
        with pytest.raises(ClassNameError):
            open_source(make(tmp_path / make.__name__))


def test_case_is_named_as_the_reason(tmp_path):
    with pytest.raises(DatasetError) as caught:
        open_source(class_names_by_case_in_splits(tmp_path))
    assert "case" in caught.value.remedy
    assert "'rose'" in caught.value.remedy


@pytest.mark.parametrize("content", [b"no image at all", photo((1, 2, 3), size=(400, 300))[:800]])
@pytest.mark.parametrize("make", [as_folders, as_webdataset, as_parquet])
def test_a_broken_image_is_named_or_left_out(tmp_path, monkeypatch, make, content):
    good = photo((1, 2, 3))
    fake = lambda colour, number: content if number == 1 else good + bytes([number])  # noqa: E731
    monkeypatch.setitem(make.__globals__, "photo", fake)
    catalogue = open_source(make(tmp_path / "flowers"), val_fraction=0)
    with pytest.raises(UnreadableImageError) as caught:
        catalogue.load("train", task_of(catalogue))
    assert caught.value.name
    images = catalogue.load("train", task_of(catalogue), on_unreadable="skip")
    assert len(images) == 12
    assert len(images.unreadable) == 3


def test_a_missing_split_is_named(tmp_path):
    catalogue = open_source(write_folders(tmp_path))
    with pytest.raises(DatasetError) as caught:
        catalogue.index("test")
    assert (caught.value.name, caught.value.found) == ("test", ("train", "validation"))


def test_loops_of_links_are_left_out(tmp_path):
    write_folders(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "rose" / "up").symlink_to("..")
    catalogue = open_source(tmp_path)
    assert catalogue.class_names == ("daisy", "rose", "tulip")
    assert catalogue.images["train"].skipped.kinds == {"folder": 1, "broken link": 1}
    (tmp_path / "self").symlink_to(tmp_path)
    assert open_source(tmp_path).empty_classes == ("self",)


def test_a_duplicate_row_is_skipped(tmp_path):
    write_folders(tmp_path)
    rows = [(f"{n}/{i}.jpg", n) for n, i in FLOWERS]
    catalogue = open_source(write_csv(tmp_path / "l.csv", [("path", "label"), *rows, rows[0]]))
    assert catalogue.images["train"].skipped.kinds == {"duplicate row": 1}
    assert sum(len(catalogue.images[split]) for split in catalogue.splits) == 15


@pytest.mark.parametrize("fraction", [-0.1, 0.6])
def test_a_fraction_out_of_range(tmp_path, fraction):
    with pytest.raises(DatasetError) as caught:
        open_source(write_folders(tmp_path), val_fraction=fraction)
    assert caught.value.found == fraction


@pytest.mark.slow
@pytest.mark.parametrize("make", FORMS[1:])
def test_whatever_is_damaged_is_a_data_set_error(tmp_path, make: Callable[[Path], Path]):
    source = make(tmp_path / "flowers")
    suffixes = (".csv", ".parquet", ".tar")
    (file, *_) = [path for path in tmp_path.rglob("*") if path.suffix in suffixes]
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(100):
        content = np.frombuffer(whole, np.uint8).copy()
        places = rng.integers(0, min(len(content), 4000), rng.integers(1, 20))
        content[places] = rng.integers(0, 256, len(places))
        file.write_bytes(content[: rng.integers(len(content) // 2, len(content) + 1)].tobytes())
        with contextlib.suppress(DatasetError):
            read_all(source)
