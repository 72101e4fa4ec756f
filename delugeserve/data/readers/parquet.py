"""Parquet files with a column of encoded images, or of paths, and a column of labels."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delugeserve.data.encoded import NEARBY, ImageStore
from delugeserve.data.labels import number_names
from delugeserve.data.readers.split_files import ShardedLayout, common_path, find_files
from delugeserve.data.readers.tables import IMAGE_COLUMNS, LABEL_COLUMNS, list_rows
from delugeserve.data.splits import Listing, SplitName
from delugeserve.errors import DatasetError
from delugeserve.system.imports import require
from delugeserve.system.progress import NO_PROGRESS, Progress


class _ParquetFiles(ShardedLayout):
    """Parquet files, one or more for each split.

    Args:
        files: the files of each split.
    """

    form = "parquet"

    def list_split(
        self, split: SplitName, *, limit: int | None = None, progress: Progress = NO_PROGRESS
    ) -> Listing:
        files = self._files.of(split)
        progress.stage(f"list {split} images", len(files))
        if find_image_column(files[0], _open(files[0]).schema_arrow).paths:
            return _list_paths(files, limit)
        labels: list[Any] = []
        groups, count = [], 0
        for number, name in enumerate(files):
            file = _open(name)
            find_image_column(name, file.schema_arrow)
            labels.append(_read_labels(name, file))
            for group in range(file.metadata.num_row_groups):
                groups.append((number, group, count))
                count += file.metadata.row_group(group).num_rows
            progress.advance(1)
            if limit is not None and count >= limit:
                break
        numbers, names = _number_labels(np.concatenate(labels)[:limit])
        starting = [group for group in groups if group[2] < len(numbers)]
        store = _ParquetStore(files, np.array(starting, np.int64).reshape(-1, 3), len(numbers))
        source = common_path(files)
        return Listing(source, store, numbers, names or _class_names(_open(files[0])))


def find(path: Path) -> _ParquetFiles | None:
    """Find parquet files; see :func:`.find_layout`."""
    files = find_files(path, ".parquet")
    return _ParquetFiles(files) if files else None


class _ParquetStore(ImageStore):
    """The rows of parquet files with a column of encoded images.

    Args:
        files: the files, in order.
        groups: int64 ``[G, 3]``: for each row group the index of its file, its index in the file,
            and its first image.
        count: number of images.
    """

    def __init__(self, files: list[Path], groups: NDArray[np.int64], count: int) -> None:
        self._files, self._groups, self._count = files, groups, count
        self._clear_caches()

    def _clear_caches(self) -> None:
        """Start with no file open and no row group in memory."""
        kept = NEARBY * len(self._groups) // max(1, len(self)) + 2
        self._open = functools.lru_cache(None)(_open)
        self._row_group = functools.lru_cache(kept)(self._read_row_group)
        self._lock = threading.Lock()  # a pyarrow file is not for several threads at once

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_open", "_row_group", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._clear_caches()

    def __len__(self) -> int:
        return self._count

    @property
    def starts(self) -> NDArray[np.int64]:
        starts: NDArray[np.int64] = self._groups[:, 2]
        return starts

    def __getitem__(self, row: int) -> bytes:
        group = self._group_of(row)
        with self._lock:
            column = self._row_group(group)
        place = int(row - self.starts[group])
        if place >= len(column):
            raise _damaged(self._files[self._groups[group, 0]])
        encoded: bytes | None = column[place].as_py()
        return encoded or b""

    def name(self, row: int) -> str:
        path, number = self._place(row)
        return f"The image in row {number} of {path} (counted from 0)"

    def key(self, row: int) -> str:
        path, number = self._place(row)
        return f"{path.name}:{number}"

    def fingerprint(self, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> str:
        digest = hashlib.sha256(repr([file.stat().st_size for file in self._files]).encode())
        digest.update(labels.astype("<i8").tobytes())
        if len(rows) < len(self):
            digest.update(rows.astype("<i8").tobytes())
        return digest.hexdigest()

    def _place(self, row: int) -> tuple[Path, int]:
        """Return the file of a row, and the row's number in it."""
        file = self._groups[self._group_of(row), 0]
        first = self.starts[np.searchsorted(self._groups[:, 0], file)]
        return self._files[file], int(row - first)

    def _group_of(self, row: int) -> int:
        return int(np.searchsorted(self.starts, row, side="right")) - 1

    def _read_row_group(self, group: int) -> Any:
        """Return the encoded images, a pyarrow ``ChunkedArray`` of binary."""
        number, group_in_file, _ = self._groups[group]
        path = self._files[number]
        file = self._open(path)
        column = find_image_column(path, file.schema_arrow)
        with _reading(path):
            # Without threads: there is a worker for each core already.
            table = file.read_row_group(
                int(group_in_file), columns=[column.content], use_threads=False
            )
        found = table.column(0)
        return found if column.content == column.name else found.flatten()[0]


def _list_paths(files: list[Path], limit: int | None) -> Listing:
    """List rows of paths and labels, as those of a CSV file."""
    paths: list[str | None] = []
    labels: list[Any] = []
    for name in files:
        file = _open(name)
        column = find_image_column(name, file.schema_arrow)
        labels.append(_read_labels(name, file))
        with _reading(name):
            paths += file.read(columns=[column.name]).column(0).to_pylist()
    together = np.concatenate(labels)
    source = common_path(files)
    places = [f"Row {row} of {source} (counted from 0)" for row in range(len(paths))]
    listing = list_rows(source, paths, [str(label) for label in together], places, limit)
    if listing.class_names is None:
        # The numbers may stand for names in the metadata.
        return dataclasses.replace(listing, class_names=_class_names(_open(files[0])))
    return listing


class ImageColumn:
    """The column that holds the images.

    Attributes:
        name: its name.
        content: name of the column, or of the field in it, that holds the encoded images.
        paths: whether it holds paths instead.
    """

    def __init__(self, name: str, content: str, *, paths: bool = False) -> None:
        self.name, self.content, self.paths = name, content, paths


def find_image_column(path: Path, schema: Any) -> ImageColumn:
    """Find the column of images.

    Raises:
        DatasetError: there is no such column, or it does not hold encoded images.
    """
    types = require("pyarrow.types", "train")
    name = _find_column(path, schema, IMAGE_COLUMNS, "Image")
    kind = schema.field(name).type
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return ImageColumn(name, f"{name}.bytes")
    if types.is_binary(kind) or types.is_large_binary(kind):
        return ImageColumn(name, name)
    if types.is_string(kind) or types.is_large_string(kind):
        return ImageColumn(name, name, paths=True)
    raise _wrong_type(
        path,
        name,
        kind,
        "encoded images or paths",
        "Store each image as the bytes of a PNG or JPEG file, or as its path.",
    )


def _label_column(path: Path, schema: Any) -> str:
    types = require("pyarrow.types", "train")
    name = _find_column(path, schema, LABEL_COLUMNS, "ClassLabel")
    kind = schema.field(name).type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if not (types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)):
        raise _wrong_type(
            path,
            name,
            kind,
            "integers or text",
            "Store each label as the name of its class, or as its index from 0.",
        )
    return name


def _find_column(path: Path, schema: Any, known: tuple[str, ...], feature: str) -> str:
    """Find a column by its usual names, or by the type that the Hub's metadata give it."""
    by_name: dict[str, str] = {name.lower(): name for name in reversed(schema.names)}
    for name in known:
        if name in by_name:
            return by_name[name]
    for name, described in _features(schema).items():
        if name in schema.names and described.get("_type") == feature:
            return name
    raise DatasetError(
        f"{path} has no column '{known[0]}'; it has {', '.join(schema.names) or 'no columns'}.",
        f"Name the column '{known[0]}' or '{known[1]}'.",
        path=path,
        name=known[0],
        expected=known,
        found=tuple(schema.names),
    )


def _wrong_type(path: Path, column: str, kind: Any, expected: str, remedy: str) -> DatasetError:
    return DatasetError(
        f"The column '{column}' of {path} holds {kind}, not {expected}.",
        remedy,
        path=path,
        name=column,
        expected=expected,
        found=str(kind),
    )


def _read_labels(path: Path, file: Any) -> NDArray[Any]:
    """Read the labels of a whole file, int64 or text ``[rows]``, and none of its images.

    Raises:
        DatasetError: there is no column of labels, a row has no label, or the file is damaged.
    """
    label = _label_column(path, file.schema_arrow)
    with _reading(path):
        column = file.read(columns=[label]).column(0)
    if column.null_count:
        raise DatasetError(
            f"{path} has rows without a label.", "Remove these rows.", path=path, name="label"
        )
    if require("pyarrow.types", "train").is_integer(column.type):
        return np.asarray(column, np.int64)
    with _reading(path):
        return np.array(column.to_pylist(), object)


def _number_labels(labels: NDArray[Any]) -> tuple[NDArray[np.int64], tuple[str, ...] | None]:
    """Return labels as numbers, and the class names if they are text."""
    if labels.dtype.kind == "i":
        return labels, None
    return number_names([str(label) for label in labels.tolist()])


def _open(path: Path) -> Any:
    """Open a file as a ``pyarrow.parquet.ParquetFile``.

    Raises:
        DatasetError: the file is damaged or not a parquet file.
        MissingExtraError: pyarrow is not installed.
    """
    module = require("pyarrow.parquet", "train")
    with _reading(path):
        file = module.ParquetFile(path)
        _ = file.schema_arrow.names, file.metadata  # both are read from the file here
        return file


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn an error of pyarrow in the body into a :class:`DatasetError`.

    Raises:
        DatasetError: the file is damaged or not a parquet file.
        MissingExtraError: pyarrow is not installed.
    """
    pyarrow = require("pyarrow", "train")
    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, PermissionError):
            raise
        raise _damaged(path) from error


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Read how the Hugging Face library describes the columns in the metadata of a file."""
    text = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(text or "null")["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    if not isinstance(features, dict):
        return {}
    return {name: about for name, about in features.items() if isinstance(about, dict)}


def _class_names(file: Any) -> tuple[str, ...] | None:
    """Read the class names that the Hugging Face library keeps in the metadata of a file."""
    features = _features(file.schema_arrow)
    usual = [features[name] for name in LABEL_COLUMNS if name in features]
    typed = [about for about in features.values() if about.get("_type") == "ClassLabel"]
    names = next(iter(usual or typed), {}).get("names")
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None


def _damaged(path: Path) -> DatasetError:
    return DatasetError(
        f"{path} is damaged, truncated or not a parquet file.",
        "Download the data set again.",
        path=path,
    )
