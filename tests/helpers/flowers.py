"""Small data sets of three flowers, in every form that is read."""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from delugeserve.data.catalogue import Catalogue
from delugeserve.data.datasets import LabelledImages
from delugeserve.zoo import Task

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

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
