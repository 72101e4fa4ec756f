"""WebDataset archives: tar files with an image and a label for each sample.

The files of a sample have the same name up to the first dot: ``0001.jpg`` and ``0001.cls``. The
label is in ``.cls``, ``.label``, ``.txt`` or, under the key ``label``, ``class`` or ``cls``, in
``.json``. An archive without labels that has the images in class folders is read as such. See
https://github.com/webdataset/webdataset.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from delugeserve.artifacts.labels import check_class_names, split_names
from delugeserve.data.encoded import ImageStore
from delugeserve.data.formats import is_image_file
from delugeserve.data.labels import as_numbers, number_names
from delugeserve.data.readers.split_files import ShardedLayout, common_path, find_files
from delugeserve.data.skipped import SkippedFiles
from delugeserve.data.splits import Listing, SplitName, split_named
from delugeserve.errors import DatasetError
from delugeserve.system.progress import NO_PROGRESS, Progress

_LABELS = ("cls", "label", "json", "txt")  # "txt" may be a caption beside another label
_KEYS = ("label", "class", "cls")
_NAMES = ("classnames.txt", "classes.txt", "labels.txt")
_LONGEST_LABEL = 2**16  # bytes


class _Tars(ShardedLayout):
    """WebDataset archives, one or more for each split.

    Args:
        files: the archives of each split.
    """

    form = "WebDataset"

    def list_split(
        self, split: SplitName, *, limit: int | None = None, progress: Progress = NO_PROGRESS
    ) -> Listing:
        files = self._files.of(split)
        progress.stage(f"list {split} images", len(files))
        places: list[tuple[int, int, int]] = []
        names, labels, skipped = [], [], []
        for number, path in enumerate(files):
            for sample in _samples(path):
                if sample.image is None:
                    skipped.append(("label without image", sample.name))
                elif sample.label is None:
                    skipped.append(("image without label", sample.name))
                else:
                    places.append((number, *sample.image))
                    names.append(sample.name)
                    labels.append(sample.label)
            progress.advance(1)
            if limit is not None and len(places) >= limit:
                break
        source = common_path(files)
        if skipped and not places:
            raise DatasetError(
                f"{source} has no labels for its images, such as {skipped[0][1]}.",
                "Add a file for each image with the name of its class, such as 0001.cls beside"
                " 0001.jpg.",
                path=source,
                name=skipped[0][1],
            )
        numbers = as_numbers(labels)
        class_names = self._names() if numbers is not None else None
        if numbers is None:
            numbers, class_names = number_names(labels)
        if class_names:
            check_class_names(class_names, source)
        store = _TarStore(files, np.array(places[:limit], np.int64).reshape(-1, 3), names[:limit])
        return Listing(source, store, numbers[:limit], class_names, SkippedFiles.count(skipped))

    def _names(self) -> tuple[str, ...] | None:
        """Read the names of numbered classes from a text file beside the archives."""
        folder = self.path if self.path.is_dir() else self.path.parent
        for name in _NAMES:
            if (folder / name).is_file():
                return split_names((folder / name).read_text("utf-8"))
        return None


def find(path: Path) -> _Tars | None:
    """Find tar files; see :func:`.find_layout`.

    Raises:
        DatasetError: the tar file is compressed.
    """
    if path.is_file() and path.name.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
        raise DatasetError(
            f"{path} is compressed, so its images cannot be read in any order.",
            "Unpack it, and give the folder or the uncompressed .tar file.",
            path=path,
        )
    files = find_files(path, ".tar")
    return _Tars(files) if files else None


class _TarStore(ImageStore):
    """Images in uncompressed tar archives.

    Args:
        files: the archives, in order.
        places: int64 ``[N, 3]``: index of the archive, offset and length in bytes.
        names: name of each image in its archive.
    """

    def __init__(self, files: list[Path], places: NDArray[np.int64], names: list[str]) -> None:
        self._files, self._places = files, places
        encoded = [os.fsencode(name) for name in names]
        self._ends = np.cumsum([0, *map(len, encoded)])
        self._names = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, row: int) -> bytes:
        number, offset, length = self._places[row].tolist()
        try:
            with self._files[number].open("rb") as stream:
                stream.seek(offset)
                content: bytes = stream.read(length)
        except OSError as error:
            raise _damaged(self._files[number]) from error
        if len(content) < length:
            raise _damaged(self._files[number])
        return content

    def name(self, row: int) -> str:
        return f"{self._key(row)} in {self._files[self._places[row, 0]]}"

    def key(self, row: int) -> str:
        return f"{self._files[self._places[row, 0]].name}:{self._key(row)}"

    def _key(self, row: int) -> str:
        return os.fsdecode(self._names[self._ends[row] : self._ends[row + 1]])

    def length(self, row: int) -> int:
        return int(self._places[row, 2])

    def fingerprint(self, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> str:
        digest = hashlib.sha256(repr([file.stat().st_size for file in self._files]).encode())
        digest.update(self._places[rows].astype("<i8").tobytes())
        digest.update(labels.astype("<i8").tobytes())
        return digest.hexdigest()


class _Sample:
    """The image and the label of a sample.

    Attributes:
        name: name of its first file.
        image: offset and length of the image, in bytes.
        label: name or number of its class.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.image: tuple[int, int] | None = None
        self._labels: dict[str, str] = {}

    @property
    def label(self) -> str | None:
        return next((self._labels[suffix] for suffix in _LABELS if suffix in self._labels), None)

    def add_label(self, suffix: str, text: str) -> None:
        self._labels[suffix] = text


def _samples(path: Path) -> Iterator[_Sample]:
    """Yield the samples of an archive, in order.

    Raises:
        DatasetError: the archive is damaged or truncated.
    """
    samples: dict[str, _Sample] = {}
    labelled = False
    try:
        with tarfile.open(path, "r:") as archive:
            end = path.stat().st_size
            for member in archive:
                file = PurePosixPath(member.name)
                if not member.isreg() or file.name.startswith("."):
                    continue
                if member.offset_data + member.size > end:
                    raise _damaged(path)
                stem, _, suffix = file.name.partition(".")
                sample = samples.setdefault(str(file.parent / stem), _Sample(member.name))
                if suffix.lower() in _LABELS and member.size <= _LONGEST_LABEL:
                    stream = archive.extractfile(member)
                    text = _label(stream.read() if stream else b"", suffix.lower())
                    if text is not None:
                        sample.add_label(suffix.lower(), text)
                        labelled = True
                elif is_image_file(file.name):
                    sample.image = (member.offset_data, member.size)
                    sample.name = member.name
        with path.open("rb") as stream:
            stream.seek(archive.offset)
            if len(stream.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
                raise _damaged(path)  # an archive ends with blocks of zeros
    except (tarfile.TarError, OSError, EOFError) as error:
        if isinstance(error, PermissionError):
            raise
        raise _damaged(path) from error
    for sample in samples.values():
        folders = PurePosixPath(sample.name).parent.parts
        if not labelled and sample.image is not None and folders:
            if any(split_named(folder) for folder in folders):
                raise DatasetError(
                    f"{path} has folders of splits and no labels.",
                    "Unpack it and give the folder.",
                    path=path,
                    name=sample.name,
                )
            sample.add_label("cls", folders[-1])
        yield sample


def _label(content: bytes, suffix: str) -> str | None:
    try:
        text = content.decode("utf-8").strip()
        if suffix != "json":
            return text or None
        table = json.loads(text)
    except ValueError:
        return None
    if not isinstance(table, dict):
        return None
    label = next((table[key] for key in _KEYS if key in table), None)
    return str(label) if isinstance(label, (str, int)) else None


def _damaged(path: Path) -> DatasetError:
    return DatasetError(
        f"{path} is damaged, truncated or not a tar archive.",
        "Download or create it again.",
        path=path,
    )
