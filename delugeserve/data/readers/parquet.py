"""Parquet files with a column of encoded images and a column of labels."""

from __future__ import annotations

import functools
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from delugeserve.data.encoded import NEARBY, EncodedImages
from delugeserve.data.formats import decodable_formats
from delugeserve.data.labels import align
from delugeserve.data.readers.parquet_files import common_path, find_files
from delugeserve.data.skipped import SkippedFiles
from delugeserve.data.splits import (
    ReadRequest,
    Size,
    SizeRange,
    Split,
    SplitName,
    allocate,
    check_size,
)
from delugeserve.data.unreadable import UnreadableImages, decode_resized
from delugeserve.errors import DatasetError, UnreadableImageError
from delugeserve.system.imports import require
from delugeserve.zoo import Task

# Known column names; the first that a file has is used. CIFAR-100 also has coarse labels.
_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "fine_label")

_ROWS_PER_BATCH = 2048


def has_split(path: Path, split: SplitName, task: Task) -> bool:
    """Check whether there are parquet files of a split; see :class:`.Reader`."""
    return find_files(path, split, task) is not None


def read(path: Path, request: ReadRequest) -> Split | None:
    """Read a split from parquet files; see :class:`.Reader`.

    Images must have the data set's size. Only those of a data set that does not fit into memory
    may have any size; they are resized and cropped as the client does.
    """
    found = find_files(path, request.split, request.task)
    if found is None:
        return None
    files = [_open(file) for file in found]
    source = common_path(found)
    available = sum(file.metadata.num_rows for file in files)
    count = available if request.limit is None else min(request.limit, available)
    images = allocate(count, request.task, source)
    rows = _Rows(request, images, np.empty(count, np.int64))
    request.progress.stage(f"read {request.split} images", count)
    start = 0
    for name, file in zip(found, files, strict=True):
        stop = min(count, start + file.metadata.num_rows)
        if start < stop:
            rows.read(name, file, start, stop)
        start = stop
    return Split(
        source,
        images,
        rows.labels,
        _class_names(files[0]),
        SizeRange.of(rows.sizes),
        unreadable=rows.unreadable.names,
    ).without(rows.unreadable.rows)


def index(path: Path, request: ReadRequest) -> EncodedImages | None:
    """Read the labels of a split's parquet files; see :class:`.Reader`."""
    files = find_files(path, request.split, request.task)
    if files is None:
        return None
    request.progress.stage(f"list {request.split} images", len(files))
    labels, groups, count = [], [], 0
    for number, name in enumerate(files):
        file = _open(name)
        _image_column(name, file.schema_arrow)
        labels.append(_read_labels(name, file))
        for group in range(file.metadata.num_row_groups):
            groups.append((number, group, count))
            count += file.metadata.row_group(group).num_rows
        request.progress.advance()
        if request.limit is not None and count >= request.limit:
            break
    names = _class_names(_open(files[0]))
    wanted = np.concatenate(labels)[: request.limit]
    aligned, class_names = align(common_path(files), wanted, names, request.task)
    starting = [group for group in groups if group[2] < len(aligned)]
    return _ParquetRows(files, aligned, class_names, np.array(starting, np.int64))


class _Rows:
    """Rows of parquet files, read into arrays.

    Args:
        request: which images.
        images: uint8 ``[N, H, W, 3]``, filled by :meth:`read`.
        labels: int64 ``[N]``, filled by :meth:`read`.
    """

    def __init__(
        self, request: ReadRequest, images: NDArray[np.uint8], labels: NDArray[np.int64]
    ) -> None:
        self.labels = labels
        self.sizes: set[Size] = set()
        self.unreadable = UnreadableImages(request.on_unreadable)
        self._request = request
        self._images = images

    def read(self, path: Path, file: Any, start: int, stop: int) -> None:
        """Fill the arrays from ``start`` to ``stop`` with the first rows of a file."""
        pyarrow = require("pyarrow", "train")
        struct, encoded = _image_column(path, file.schema_arrow)
        label = _label_column(path, file.schema_arrow)
        first = start
        try:
            for batch in file.iter_batches(_ROWS_PER_BATCH, columns=[encoded, label]):
                count = min(batch.num_rows, stop - start)
                column = batch.column(struct)
                if encoded != struct:
                    column = column.field("bytes")
                labels = _as_labels(path, batch.column(label))
                self.labels[start : start + count] = labels[:count]
                for row, image in enumerate(column[:count].to_pylist(), start):
                    name = _row_name(path, row - first)
                    with self.unreadable.collect(row, name):
                        self._images[row] = self._decode(image, path, name)
                start += count
                self._request.progress.advance(count)
                if start == stop:
                    return
        except (pyarrow.ArrowException, OSError) as error:
            raise _damaged(path) from error
        raise _damaged(path)

    def _decode(self, encoded: bytes | None, path: Path, name: str) -> NDArray[np.uint8]:
        task = self._request.task
        if encoded is None:
            raise UnreadableImageError(
                f"{name} is empty.",
                "Store the content of the image in the parquet file.",
                path=path,
                name=name,
            )
        try:
            with Image.open(io.BytesIO(encoded), formats=_formats()) as image:
                self.sizes.add(image.size)
                if not task.fits_memory and image.size != (task.image_size,) * 2:
                    return decode_resized(encoded, task, name)
                check_size(image.size, task, path, name)
                return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        except DatasetError:
            raise
        except Exception as error:  # for damaged images Pillow raises nearly anything
            raise UnreadableImageError(
                f"{name} cannot be decoded.",
                "Remove the row, or download the data set again.",
                path=path,
                name=name,
            ) from error


class _ParquetRows(EncodedImages):
    """The rows of parquet files.

    Args:
        files: the files, in order.
        labels: int64 ``[N]``.
        class_names: one per class.
        groups: int64 ``[G, 3]``: for each row group the index of its file, its index in the file,
            and its first image.
    """

    def __init__(
        self,
        files: list[Path],
        labels: NDArray[np.int64],
        class_names: tuple[str, ...],
        groups: NDArray[np.int64],
    ) -> None:
        sizes = [file.stat().st_size for file in files]
        fingerprint = hashlib.sha256(repr(sizes).encode())
        fingerprint.update(labels.astype("<i8").tobytes())
        super().__init__(
            common_path(files),
            labels,
            class_names,
            fingerprint.hexdigest(),
            groups[:, 2],
            SkippedFiles(),
        )
        self._files = files
        self._groups = groups
        self._clear_caches()

    def _clear_caches(self) -> None:
        """Start with no file open and no row group in memory."""
        kept = NEARBY * len(self._groups) // len(self) + 2
        self._open = functools.lru_cache(None)(_open)
        self._row_group = functools.lru_cache(kept)(self._read_row_group)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_open", "_row_group")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._clear_caches()

    def __getitem__(self, index: int) -> bytes:
        group = self._group_of(index)
        encoded: bytes | None = self._row_group(group)[index - self.starts[group]].as_py()
        return encoded or b""

    def name(self, index: int) -> str:
        file = self._groups[self._group_of(index), 0]
        first = self.starts[np.searchsorted(self._groups[:, 0], file)]
        return _row_name(self._files[file], index - first)

    def _group_of(self, index: int) -> int:
        return int(np.searchsorted(self.starts, index, side="right")) - 1

    def _read_row_group(self, group: int) -> Any:
        """Return the encoded images, a pyarrow ``ChunkedArray`` of binary."""
        number, group_in_file, _ = self._groups[group]
        path = self._files[number]
        file = self._open(path)
        struct, encoded = _image_column(path, file.schema_arrow)
        pyarrow = require("pyarrow", "train")
        try:
            # Without threads: there is a worker for each core already.
            table = file.read_row_group(int(group_in_file), columns=[encoded], use_threads=False)
        except (pyarrow.ArrowException, OSError) as error:
            raise _damaged(path) from error
        column = table.column(0)
        return column if encoded == struct else column.flatten()[0]


def _open(path: Path) -> Any:
    """Open a file as a ``pyarrow.parquet.ParquetFile``.

    Raises:
        DatasetError: the file is damaged or not a parquet file.
        MissingExtraError: pyarrow is not installed.
    """
    pyarrow = require("pyarrow", "train")
    module = require("pyarrow.parquet", "train")
    try:
        return module.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        raise _damaged(path) from error


def _row_name(path: Path, row: int) -> str:
    return f"The image in row {row} of {path} (counted from 0)"


def _image_column(path: Path, schema: Any) -> tuple[str, str]:
    """Find the column of images.

    Returns:
        Name of the column, and of the column or field in it that holds the encoded images.

    Raises:
        DatasetError: there is no such column, or it does not hold encoded images.
    """
    types = require("pyarrow.types", "train")
    name = _find_column(path, schema, _IMAGE_COLUMNS)
    kind = schema.field(name).type
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return name, f"{name}.bytes"
    if types.is_binary(kind) or types.is_large_binary(kind):
        return name, name
    raise _wrong_type(
        path, name, kind, "encoded images", "Store each image as the bytes of a PNG or JPEG file."
    )


def _label_column(path: Path, schema: Any) -> str:
    name = _find_column(path, schema, _LABEL_COLUMNS)
    kind = schema.field(name).type
    if not require("pyarrow.types", "train").is_integer(kind):
        raise _wrong_type(
            path, name, kind, "integers", "Store each label as the index of its class, from 0."
        )
    return name


def _find_column(path: Path, schema: Any, known: tuple[str, ...]) -> str:
    for name in known:
        if name in schema.names:
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


def _read_labels(path: Path, file: Any) -> NDArray[np.int64]:
    """Read the labels of a whole file, int64 ``[rows]``, and none of its images.

    Raises:
        DatasetError: there is no column of labels, a row has no label, or the file is damaged.
    """
    pyarrow = require("pyarrow", "train")
    label = _label_column(path, file.schema_arrow)
    try:
        return _as_labels(path, file.read(columns=[label]).column(0))
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path) from error


def _as_labels(path: Path, column: Any) -> NDArray[np.int64]:
    if column.null_count:
        raise DatasetError(
            f"{path} has rows without a label.", "Remove these rows.", path=path, name="label"
        )
    return np.asarray(column, np.int64)


def _class_names(file: Any) -> tuple[str, ...] | None:
    """Read the class names that the Hugging Face library keeps in the metadata of a file."""
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


@functools.cache
def _formats() -> list[str]:
    return decodable_formats()


def _damaged(path: Path) -> DatasetError:
    return DatasetError(
        f"{path} is damaged, truncated or not a parquet file.",
        "Download the data set again.",
        path=path,
    )
