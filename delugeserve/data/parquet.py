"""Reading images from parquet files: a column of encoded images, and one of labels.

The files of a split are found by their names, as these are in use: ``train.parquet``,
``data/train-00000-of-00002.parquet``, ``plain_text/train/0000.parquet``.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from delugeserve.data.splits import SPLIT_NAMES, Split, SplitName, allocate, check_size
from delugeserve.data.unreadable import Sieve, decode_resized
from delugeserve.errors import DatasetError, UnreadableImageError, require
from delugeserve.zoo import DatasetSpec

# Known column names, the first one that a file has counts. CIFAR-100 has coarse labels besides.
_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "fine_label")

# What data sets are made of. Pillow's rarer decoders stay out of reach of a file from anywhere.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")

_ROWS_AT_A_TIME = 2048

_FILE_NAME = re.compile(r"(?P<split>[a-z]+)(-(?P<shard>\d+)-of-(?P<shards>\d+))?\.parquet")
_NUMBERED = re.compile(r"\d+\.parquet")


def read(
    path: Path, split: SplitName, dataset: DatasetSpec, limit: int | None, sieve: Sieve
) -> Split | None:
    """Read a split from a parquet file, or from those in a folder or one level below it.

    Args:
        path: a file or a folder. A file whose name names no split serves for either.
        split: which split.
        dataset: gives the size that the images must have; those of a data set that does not fit
            the memory have any size, and are scaled and cropped.
        limit: at most so many images.
        sieve: holds back images that cannot be decoded.

    Returns:
        None if there are no parquet files.

    Raises:
        DatasetError: a file cannot be read, lacks a column, or an image is not as it should be.
        MissingExtraError: pyarrow is not installed.
    """
    found = find_files(path, split, dataset)
    if found is None:
        return None
    files = [open_file(file) for file in found]
    source = name_of(found)
    available = sum(file.metadata.num_rows for file in files)
    count = available if limit is None else min(limit, available)
    images, labels = allocate(count, dataset, source), np.empty(count, np.int64)
    start = 0
    for name, file in zip(found, files, strict=True):
        stop = min(count, start + file.metadata.num_rows)
        if start < stop:
            _read_rows(name, file, images[:stop], labels[:stop], start, dataset, sieve)
        start = stop
    return Split(source, images, labels, class_names(files[0]))


def find_files(path: Path, split: SplitName, dataset: DatasetSpec) -> list[Path] | None:
    """Find the files of a split.

    Args:
        path: a file or a folder, as ``read`` takes it.
        split: which split.
        dataset: the data set that it should be.

    Returns:
        The files in the order of their shards; None where nothing is parquet.

    Raises:
        DatasetError: there are other files, or the split's are not complete or of two downloads.
    """
    if path.is_file():
        if path.suffix != ".parquet":
            return None
        if _split_of(path) not in (split, None):
            raise DatasetError(
                f"{path} is not the {split} split, as its name says.",
                "Give the folder that holds both splits.",
            )
        return [path]
    files = sorted(path.glob("*.parquet")) or sorted(path.glob("*/*.parquet"))
    files = files or sorted(path.glob("*/*/*.parquet"))
    if not files:
        return None
    names = SPLIT_NAMES[split]
    if dataset.name == "imagenet" and split == "test":
        names = (*names[1:], "test")  # whose labels are all -1: they were never published
    for name in names:
        mine = [file for file in files if _name_of_split(file) == name]
        folders = sorted({str(file.parent) for file in mine})
        if len(folders) > 1:
            raise DatasetError(
                f"{path} has the {split} split more than once: in {' and in '.join(folders)}.",
                "Give the folder of the one that is meant.",
            )
        if mine:
            _check_shards(mine)
            return mine
    raise DatasetError(
        f"{path} has parquet files, and none of the {split} split.",
        f"Add {split}.parquet, or {split}-00000-of-00001.parquet and so on.",
    )


def _name_of_split(file: Path) -> str | None:
    match = _FILE_NAME.fullmatch(file.name)
    if match:
        return match["split"]
    return file.parent.name if _NUMBERED.fullmatch(file.name) else None


def _split_of(file: Path) -> SplitName | None:
    name = _name_of_split(file)
    return next((split for split, names in SPLIT_NAMES.items() if name in names), None)


def _check_shards(files: list[Path]) -> None:
    """Check that the files of a split, in one folder, are all parts of one download."""
    shards = [_FILE_NAME.fullmatch(file.name) for file in files]
    # None of a split in one file, and "" of numbered files, which do not say how many they are.
    counts = [match["shards"] if match else "" for match in shards]
    other = next((i for i, count in enumerate(counts) if count != counts[0]), None)
    if other is not None:
        raise DatasetError(
            f"{files[0].parent} has parquet files of two downloads: {files[0].name} and"
            f" {files[other].name}.",
            "Remove those of one of them.",
        )
    if not counts[0]:
        return
    numbers = {int(match["shard"]) for match in shards if match}
    missing = set(range(int(counts[0]))) - numbers
    if missing:
        raise DatasetError(
            f"{files[0].parent} lacks part {min(missing):05d} of the parquet files"
            f" {files[0].name} and following.",
            "Fetch the data set again.",
        )


def name_of(files: list[Path]) -> str:
    """What to call a split's files in a message."""
    return str(files[0] if len(files) == 1 else files[0].parent)


def open_file(path: Path) -> Any:
    """Open a file as a ``pyarrow.parquet.ParquetFile``.

    Raises:
        DatasetError: it is none, or is damaged.
        MissingExtraError: pyarrow is not installed.
    """
    pyarrow = require("pyarrow", "train")
    module = require("pyarrow.parquet", "train")
    try:
        return module.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        raise damaged(path) from error


def _read_rows(
    path: Path,
    file: Any,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    first: int,
    dataset: DatasetSpec,
    sieve: Sieve,
) -> None:
    """Fill the arrays, from an index to their end, with a file's first rows."""
    pyarrow = require("pyarrow", "train")
    struct, encoded = image_column(path, file.schema_arrow)
    label = _label_column(path, file.schema_arrow)
    batches = file.iter_batches(_ROWS_AT_A_TIME, columns=[encoded, label])
    start = first
    try:
        for batch in batches:
            count = min(batch.num_rows, len(labels) - start)
            column = batch.column(struct)
            if encoded != struct:
                column = column.field("bytes")
            labels[start : start + count] = _as_labels(path, batch.column(label))[:count]
            for index, encoded_image in enumerate(column[:count].to_pylist(), start):
                where = f"The image in row {index - first} of {path} (counted from 0)"
                with sieve.row(index, where):
                    images[index] = _decode(encoded_image, dataset, where)
            start += count
            if start == len(labels):
                return
    except (pyarrow.ArrowException, OSError) as error:
        raise damaged(path) from error
    raise damaged(path)


def image_column(path: Path, schema: Any) -> tuple[str, str]:
    """Find the column of images.

    Returns:
        The column's name, and that of what lies in it encoded.

    Raises:
        DatasetError: there is none, or it holds something else.
    """
    types = require("pyarrow.types", "train")
    name = _choose(path, schema, _IMAGE_COLUMNS)
    kind = schema.field(name).type
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return name, f"{name}.bytes"
    if types.is_binary(kind) or types.is_large_binary(kind):
        return name, name
    raise DatasetError(
        f"The column '{name}' of {path} holds {kind}, and not encoded images.",
        "Store each image as the bytes of a PNG or JPEG file.",
    )


def _label_column(path: Path, schema: Any) -> str:
    name = _choose(path, schema, _LABEL_COLUMNS)
    if not require("pyarrow.types", "train").is_integer(schema.field(name).type):
        raise DatasetError(
            f"The column '{name}' of {path} holds {schema.field(name).type}, and not integers.",
            "Store each label as its class's number, counted from 0.",
        )
    return name


def read_labels(path: Path, file: Any) -> NDArray[np.int64]:
    """Read a whole file's labels and none of its images.

    Returns:
        int64 ``[rows]``, not yet held against the number of classes.

    Raises:
        DatasetError: there is no column of labels, a row has none, or the file is damaged.
    """
    pyarrow = require("pyarrow", "train")
    label = _label_column(path, file.schema_arrow)
    try:
        return _as_labels(path, file.read(columns=[label]).column(0))
    except (pyarrow.ArrowException, OSError) as error:
        raise damaged(path) from error


def _as_labels(path: Path, column: Any) -> NDArray[np.int64]:
    if column.null_count:
        raise DatasetError(f"{path} has rows without a label.", "Remove them.")
    return np.asarray(column, np.int64)


def _choose(path: Path, schema: Any, known: tuple[str, ...]) -> str:
    for name in known:
        if name in schema.names:
            return name
    raise DatasetError(
        f"{path} has no column '{known[0]}'; it has {', '.join(schema.names) or 'none at all'}.",
        f"Name the column '{known[0]}' or '{known[1]}'.",
    )


def class_names(file: Any) -> tuple[str, ...] | None:
    """Read the names that Hugging Face's data sets library keeps in a file's metadata."""
    text = (file.schema_arrow.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(text or "null")["info"]["features"]
        column = next(name for name in _LABEL_COLUMNS if name in features)
        names = features[column]["names"]
    except (ValueError, KeyError, TypeError, StopIteration):
        return None
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None


def _decode(encoded: bytes | None, dataset: DatasetSpec, where: str) -> NDArray[np.uint8]:
    if encoded is None:
        raise UnreadableImageError(
            f"{where} has no bytes.", "Store the images inside the parquet file."
        )
    size = (dataset.image_size, dataset.image_size)
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            if image.size != size and not dataset.fits_memory:
                return decode_resized(encoded, dataset, where)
            check_size(*image.size, dataset, where)
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except DatasetError:
        raise
    except Exception as error:  # damaged images make Pillow's decoders raise nearly anything
        raise UnreadableImageError(
            f"{where} cannot be decoded.", "Remove the row, or fetch the data set again."
        ) from error


def damaged(path: Path) -> DatasetError:
    """The error that says so of a file."""
    return DatasetError(
        f"{path} is not a parquet file, or is damaged or truncated.", "Fetch it again."
    )
