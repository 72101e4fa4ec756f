"""CSV files of paths and labels: ``train.csv``, or one file with an optional column of splits."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from delugeserve.artifacts.labels import check_class_names
from delugeserve.data.encoded import FileStore
from delugeserve.data.formats import is_image_file
from delugeserve.data.labels import as_numbers, list_names, number_names
from delugeserve.data.readers.split_files import (
    ShardedLayout,
    SplitFiles,
    common_path,
    find_files,
)
from delugeserve.data.skipped import SkippedFiles
from delugeserve.data.splits import SPLIT_NAMES, Listing, SplitName, split_named
from delugeserve.errors import DatasetError
from delugeserve.system.progress import NO_PROGRESS, Progress

_log = logging.getLogger(__name__)

IMAGE_COLUMNS = (
    "image",
    "img",
    "path",
    "file",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "image_path",
    "image_file_path",
)
"""Names of the column of images; the first that a file has is used. The case does not count."""

LABEL_COLUMNS = ("label", "fine_label", "labels", "class", "class_name", "category", "target")
"""Names of the column of labels. CIFAR-100 also has coarse labels."""

_SUFFIXES = (".csv", ".tsv")
_SPLIT_COLUMNS = ("split", "subset")
_DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class _Rows:
    """The rows of CSV files, each with its place for messages, such as ``Line 2 of a.csv``."""

    paths: list[str]
    labels: list[str]
    places: list[str]
    splits: list[str] | None = None

    def add(self, other: _Rows, row: int) -> None:
        """Append a row of other files."""
        self.paths.append(other.paths[row])
        self.labels.append(other.labels[row])
        self.places.append(other.places[row])


class _Tables(ShardedLayout):
    """CSV files of paths and labels.

    Args:
        files: the files of each split.
    """

    form = "CSV"

    def __init__(self, files: SplitFiles) -> None:
        super().__init__(files)
        self._rows: dict[SplitName, _Rows] = {}
        if not files.divided:
            (file,) = files.of("train")
            rows = _read(file)
            self._rows = _divide(file, rows)
            self.divided = bool(self._rows)
            self._rows = self._rows or {"train": rows}
            self.splits = tuple(split for split in SPLIT_NAMES if split in self._rows)

    def list_split(
        self, split: SplitName, *, limit: int | None = None, progress: Progress = NO_PROGRESS
    ) -> Listing:
        progress.stage(f"list {split} images")
        files = self._files.of(split if self._files.divided else "train")
        if split not in self._rows:
            parts = [_read(file) for file in files]
            self._rows[split] = together = _Rows([], [], [])
            for part in parts:
                for row in range(len(part.paths)):
                    together.add(part, row)
        rows = self._rows[split]
        return list_rows(common_path(files), rows.paths, rows.labels, rows.places, limit)

    def missing(self, split: SplitName) -> DatasetError:
        if self._files.divided:
            return super().missing(split)
        return DatasetError(
            f"{self.path} has no rows of the {split} split.",
            f"Add rows with '{split}' in the column '{_SPLIT_COLUMNS[0]}'.",
            path=self.path,
            name=split,
        )


def find(path: Path) -> _Tables | None:
    """Find CSV files; see :func:`.find_layout`.

    In a folder, a file that names no split counts if it has a column of paths and one of labels.
    """
    files = find_files(path, *_SUFFIXES)
    if files is None:
        return None
    if path.is_dir() and not files.divided:
        fitting = [
            file
            for file in files.of("train")
            if _has_columns(file, IMAGE_COLUMNS) and _has_columns(file, LABEL_COLUMNS)
        ]
        return _Tables(SplitFiles(path, ".csv", {None: fitting})) if len(fitting) == 1 else None
    if len(files.splits) > 1 and "test" in files.splits:
        test = files.of("test")
        if not all(_has_columns(file, LABEL_COLUMNS) for file in test):
            _log.warning("%s has no column of labels and is not used.", test[0])
            others: dict[SplitName | None, list[Path]] = {
                split: files.of(split) for split in files.splits if split != "test"
            }
            files = SplitFiles(path, ".csv", others)
    return _Tables(files)


def list_rows(
    source: Path,
    paths: Sequence[str | None],
    labels: Sequence[str | None],
    places: Sequence[str],
    limit: int | None,
) -> Listing:
    """List images by path and label.

    Paths are relative to the folder of the file that names them. A row that repeats another one is
    skipped.

    Args:
        source: the file that has the rows, or the folder of the files.
        paths: one per row.
        labels: one per row: the name of the class, or its index from 0.
        places: one per row: where it is, as the subject of a sentence.
        limit: the most images; None for all.

    Raises:
        DatasetError: a row is incomplete, a file does not exist, or a file has two labels.
        ClassNameError: a class name has a line break.
    """
    seen: dict[str, str] = {}
    repeated: list[tuple[str, str]] = []
    for row, (path, label) in enumerate(zip(paths, labels, strict=True)):
        if not path or not label:
            raise DatasetError(
                f"{places[row]} has no {'label' if path else 'path'}.",
                "Complete or remove the row.",
                path=source,
                name=places[row],
            )
        before = seen.setdefault(path, label)
        if before != label:
            raise DatasetError(
                f"{source} gives '{path}' two labels: '{before}' and '{label}'.",
                "Remove one of the rows.",
                path=source,
                name=path,
                found=(before, label),
            )
        if len(seen) + len(repeated) <= row:
            repeated.append(("duplicate row", path))
    found = list(seen)[:limit]
    folder = source if source.is_dir() else source.parent
    lost = [path for path in found if not os.path.isfile(os.path.join(folder, path))]  # noqa: PTH113, PTH118 - fast
    if lost:
        files = "1 file that does" if len(lost) == 1 else f"{len(lost):,} files that do"
        raise DatasetError(
            f"{source} names {files} not exist: {list_names(lost)}.",
            f"Correct the paths, which are relative to {folder}, or remove the rows.",
            path=source,
            name=lost[0],
            missing=lost,
        )
    texts = [seen[path] for path in found]
    numbers = as_numbers(texts)
    names = None
    if numbers is None:
        numbers, names = number_names(list(seen.values()))
        check_class_names(names, source)
        numbers = numbers[: len(found)]
    store = FileStore(folder, found, labelled=False)
    return Listing(source, store, numbers, names, SkippedFiles.count(repeated))


def _read(path: Path) -> _Rows:
    """Read the paths, the labels and the splits of a CSV file.

    Raises:
        DatasetError: the file is empty, not UTF-8, or has no such columns.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            first = stream.readline()
            stream.seek(0)
            reader = csv.reader(stream, delimiter=_delimiter(first))
            table = [(f"Line {reader.line_num} of {path}", row) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            f"{path} is not a CSV file in UTF-8.", "Save it as CSV in UTF-8.", path=path
        ) from error
    if not table:
        raise DatasetError(f"{path} is empty.", "Add a header and rows.", path=path)
    (_, header), *rows = table
    if any(is_image_file(cell) for cell in header):
        raise DatasetError(
            f"{path} has no header: its first line is '{first.strip()}'.",
            "Add a first line that names the columns, such as 'path,label'.",
            path=path,
            name="header",
            found=tuple(header),
        )
    image = _column(path, header, IMAGE_COLUMNS, "path")
    label = _column(path, header, LABEL_COLUMNS, "label")
    for place, row in rows:
        if len(row) <= max(image, label):
            raise DatasetError(
                f"{place} has {len(row)} of {len(header)} columns.",
                "Complete or remove the row.",
                path=path,
                name=place,
                expected=len(header),
                found=len(row),
            )
    split = _find(header, _SPLIT_COLUMNS)
    return _Rows(
        [row[image].strip() for _, row in rows],
        [row[label].strip() for _, row in rows],
        [place for place, _ in rows],
        None if split is None else ["".join(row[split : split + 1]).strip() for _, row in rows],
    )


def _divide(path: Path, rows: _Rows) -> dict[SplitName, _Rows]:
    """Divide rows by their column of splits; empty if there is none."""
    divided: dict[SplitName, _Rows] = {}
    for row, name in enumerate(rows.splits or []):
        split = split_named(name)
        if split is None:
            raise DatasetError(
                f"{rows.places[row]} has the split '{name}'.",
                "Use train, validation or test.",
                path=path,
                name=rows.places[row],
                expected=tuple(SPLIT_NAMES),
                found=name,
            )
        divided.setdefault(split, _Rows([], [], [])).add(rows, row)
    return divided


def _delimiter(header: str) -> str:
    return max(_DELIMITERS, key=header.count)


def _has_columns(path: Path, known: tuple[str, ...]) -> bool:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            first = stream.readline()
    except (UnicodeDecodeError, OSError):
        return False
    header = next(csv.reader([first], delimiter=_delimiter(first)), [])
    return _find(header, known) is not None


def _column(path: Path, header: Sequence[str], known: tuple[str, ...], name: str) -> int:
    found = _find(header, known)
    if found is None:
        raise DatasetError(
            f"{path} has no column '{name}'; it has {', '.join(header)}.",
            f"Name the column '{name}'.",
            path=path,
            name=name,
            expected=known,
            found=tuple(header),
        )
    return found


def _find(header: Sequence[str], known: tuple[str, ...]) -> int | None:
    columns = [cell.strip().lower() for cell in header]
    return next((columns.index(name) for name in known if name in columns), None)
