"""Every way in which data can be bad; docs/data.md shows what each prints."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flowers import (
    FLOWERS,
    FORMS,
    as_folders,
    as_parquet,
    as_tar_of_folders,
    as_webdataset,
    photo,
    task_of,
    write,
    write_csv,
    write_folders,
    write_tar,
)

from delugeserve.data.catalogue import open_source
from delugeserve.errors import ClassNameError, DatasetError, UnreadableImageError

PAGE = Path(__file__).parents[3] / "docs" / "data.md"


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
    write(folder / "train" / "rose" / "0.xcf", b"123")
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
