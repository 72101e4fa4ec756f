"""The original CIFAR-10 and CIFAR-100 archives, in the Python and the binary edition.

Both are described at https://www.cs.toronto.edu/~kriz/cifar.html. Packed archives are read in
place; nothing is extracted.
"""

from __future__ import annotations

import pickle
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from delugeserve.data.encoded import PixelStore
from delugeserve.data.readers.layout import Layout
from delugeserve.data.readers.pickles import unpickle_table
from delugeserve.data.splits import Listing, SplitName
from delugeserve.errors import DatasetError
from delugeserve.system.progress import NO_PROGRESS, Progress

_SIZE = 32
_PIXELS = 3 * _SIZE * _SIZE

# The largest file of these archives has 150 MiB; a larger one is not one of theirs.
_LARGEST_FILE = 512 * 2**20

_ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar")


@dataclass(frozen=True)
class _Edition:
    """The layout of one of the four archives.

    Attributes:
        dataset: name of its data set in ``zoo.TASKS``.
        folder: name of the folder in the archive.
        archive: file name of the archive, without the suffix.
        train: names of the files with training images.
        test: names of the files with test images.
        names: name of the file with the class names.
        labels: key of the labels in a pickle.
        label_bytes: number of label bytes before the pixels of a binary record, of which the last
            is the class; None for pickles.
    """

    dataset: str
    folder: str
    archive: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    labels: str
    label_bytes: int | None = None

    def files(self, split: SplitName) -> tuple[str, ...]:
        return self.train if split == "train" else self.test


_EDITIONS = (
    _Edition(
        "cifar10",
        "cifar-10-batches-py",
        "cifar-10-python",
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        ("test_batch",),
        "batches.meta",
        "labels",
    ),
    _Edition(
        "cifar100",
        "cifar-100-python",
        "cifar-100-python",
        ("train",),
        ("test",),
        "meta",
        "fine_labels",
    ),
    _Edition(
        "cifar10",
        "cifar-10-batches-bin",
        "cifar-10-binary",
        tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        ("test_batch.bin",),
        "batches.meta.txt",
        "labels",
        label_bytes=1,
    ),
    _Edition(
        "cifar100",
        "cifar-100-binary",
        "cifar-100-binary",
        ("train.bin",),
        ("test.bin",),
        "fine_label_names.txt",
        "fine_labels",
        label_bytes=2,
    ),
)


class _CifarArchive(Layout):
    """A CIFAR archive, packed or unpacked. A pickle that would run code is refused.

    Args:
        path: the file or folder that was given.
        unpacked: the folder with the files, and the edition.
        archive: the packed archive; used if there is no unpacked one.
    """

    form = "CIFAR archive"
    splits = ("train", "test")
    divided = True

    def __init__(
        self, path: Path, unpacked: tuple[Path, _Edition] | None, archive: Path | None
    ) -> None:
        self.path, self._unpacked, self._archive = path, unpacked, archive

    def list_split(
        self, split: SplitName, *, limit: int | None = None, progress: Progress = NO_PROGRESS
    ) -> Listing:
        progress.stage(f"read {split} images")
        if self._unpacked is not None:
            return _parse(_read_folder(*self._unpacked, split), split, limit)
        assert self._archive is not None
        return _parse(_read_archive(self._archive, split), split, limit)

    def missing(self, split: SplitName) -> DatasetError:
        return DatasetError(
            f"{self.path} has no images of the {split} split.",
            "Choose the training or the test split of CIFAR.",
            path=self.path,
            name=split,
        )

    def check(self, split: SplitName) -> None:
        if self._unpacked is not None:
            folder, edition = self._unpacked
            for name in edition.files(split):
                if not (folder / name).is_file():
                    raise _missing_file(folder, name, split)


def find(path: Path, prefer: str | None = None) -> _CifarArchive | None:
    """Find an archive; see :func:`.find_layout`."""
    editions = sorted(_EDITIONS, key=lambda edition: edition.dataset != prefer)
    unpacked, archive = _find_unpacked(path, editions), _find_archive(path, editions)
    return _CifarArchive(path, unpacked, archive) if unpacked or archive else None


@dataclass(frozen=True)
class _Content:
    """The content of an archive's files, by name."""

    source: Path
    edition: _Edition
    files: dict[str, bytes]


def _find_unpacked(path: Path, editions: Iterable[_Edition]) -> tuple[Path, _Edition] | None:
    for edition in editions:
        for folder in (path / edition.folder, path):
            # Names such as "train" are common, so it takes two files to recognise an edition.
            every = (*edition.train, *edition.test, edition.names)
            if sum((folder / name).is_file() for name in every) >= 2:
                return folder, edition
    return None


def _find_archive(path: Path, editions: Iterable[_Edition]) -> Path | None:
    if path.is_file():
        return path if path.name.endswith(_ARCHIVE_SUFFIXES) and _is_cifar(path) else None
    for edition in editions:
        for suffix in _ARCHIVE_SUFFIXES:
            archive = path / (edition.archive + suffix)
            if archive.is_file():
                return archive
    return None


def _is_cifar(path: Path) -> bool:
    """Return whether a tar file has the name or, as its first entry, the folder of an archive."""
    if path.name.startswith(tuple(edition.archive for edition in _EDITIONS)):
        return True
    try:
        with tarfile.open(path) as archive:
            first = archive.next()
    except (tarfile.TarError, OSError, EOFError, zlib.error):
        return False
    folders = [edition.folder for edition in _EDITIONS]
    return first is not None and PurePosixPath(first.name).parts[:1] in [(f,) for f in folders]


def _read_folder(folder: Path, edition: _Edition, split: SplitName) -> _Content:
    wanted = (*edition.files(split), edition.names)
    files = {}
    for name in wanted:
        path = folder / name
        if path.is_file():
            _check_length(path.stat().st_size, folder, name)
            files[name] = path.read_bytes()
    return _Content(folder, edition, files)


def _read_archive(path: Path, split: SplitName) -> _Content:
    """Read the files of a split in one pass over the archive."""
    by_folder = {edition.folder: edition for edition in _EDITIONS}
    edition = None
    files = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                edition = by_folder.get(name.parent.name, edition)
                if edition is None or not member.isfile() or name.parent.name != edition.folder:
                    continue
                if name.name in (*edition.files(split), edition.names):
                    _check_length(member.size, path, name.name)
                    stream = archive.extractfile(member)
                    files[name.name] = stream.read() if stream else b""
            # Read to the end, where the checksum of the compressed file is.
            while archive.fileobj and archive.fileobj.read(2**20):
                pass
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        if isinstance(error, PermissionError):
            raise
        raise DatasetError(
            f"{path} is damaged, truncated or not a tar archive.",
            "Download it again.",
            path=path,
        ) from error
    if edition is None:
        folders = tuple(edition.folder for edition in _EDITIONS)
        raise DatasetError(
            f"{path} is not a CIFAR archive: it does not contain {' or '.join(folders)}.",
            "Unpack it and give the folder that has train/<class>/ and test/<class>/.",
            path=path,
            expected=folders,
        )
    return _Content(path, edition, files)


def _check_length(length: int, source: Path, name: str) -> None:
    if length > _LARGEST_FILE:
        raise _unexpected(source, name, f"it has {length / 2**20:,.0f} MiB")


def _parse(content: _Content, split: SplitName, limit: int | None) -> Listing:
    edition = content.edition
    parts = []
    for name in edition.files(split):
        if name not in content.files:
            raise _missing_file(content.source, name, split)
        data = content.files[name]
        if edition.label_bytes is None:
            parts.append(_parse_pickle(data, edition.labels, content.source, name))
        else:
            parts.append(parse_records(data, edition.label_bytes, content.source, name))
        if limit is not None and sum(len(labels) for _, labels in parts) >= limit:
            break
    planes = np.concatenate([pixels for pixels, _ in parts])[:limit]
    labels = np.concatenate([labels for _, labels in parts])[:limit]
    images = np.ascontiguousarray(planes.reshape(-1, 3, _SIZE, _SIZE).transpose(0, 2, 3, 1))
    store = PixelStore(content.source, images)
    return Listing(content.source, store, labels, _class_names(content))


def parse_records(
    data: bytes, label_bytes: int, source: Path, name: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Parse the records of the binary edition.

    Args:
        data: records of ``label_bytes`` labels, the class last, and 3072 pixels: the red, the green
            and the blue plane, each row by row.
        label_bytes: 1 for CIFAR-10; 2 for CIFAR-100, with the coarse label first.
        source: path of the archive.
        name: name of the file in it.

    Returns:
        Pixels, uint8 ``[N, 3072]``, and labels, int64 ``[N]``.

    Raises:
        DatasetError: the last record is incomplete.
    """
    length = label_bytes + _PIXELS
    if len(data) % length:
        raise DatasetError(
            f"{name} in {source} is truncated: {len(data)} bytes are not a multiple of {length}.",
            "Download the archive again.",
            path=source,
            name=name,
            found=len(data),
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, length)
    return records[:, label_bytes:], records[:, label_bytes - 1].astype(np.int64)


def _parse_pickle(
    data: bytes, key: str, source: Path, name: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    table = _unpickle(data, source, name)
    pixels, labels = table.get("data"), table.get(key)
    if not isinstance(pixels, np.ndarray) or not isinstance(labels, list):
        raise _unexpected(source, name, f"it has no valid 'data' or '{key}'")
    if pixels.shape != (len(labels), _PIXELS):
        shape = list(pixels.shape)
        raise _unexpected(source, name, f"it has pixels of shape {shape} for {len(labels)} labels")
    if not all(isinstance(label, int) and abs(label) < 2**31 for label in labels):
        raise _unexpected(source, name, "its labels are not integers")
    return pixels, np.array(labels, np.int64)


def _class_names(content: _Content) -> tuple[str, ...] | None:
    edition = content.edition
    data = content.files.get(edition.names)
    if data is None:
        return None
    if edition.label_bytes is not None:
        return tuple(data.decode("utf-8", "replace").split())
    key = "label_names" if edition.labels == "labels" else "fine_label_names"
    names = _unpickle(data, content.source, edition.names).get(key)
    if not isinstance(names, list):
        raise _unexpected(content.source, edition.names, f"it has no '{key}'")
    return tuple(
        name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names
    )


def _unpickle(data: bytes, source: Path, name: str) -> dict[str, object]:
    try:
        return unpickle_table(data)
    except pickle.UnpicklingError as error:
        raise _unexpected(source, name, str(error)) from error


def _missing_file(source: Path, name: str, split: SplitName) -> DatasetError:
    return DatasetError(
        f"{source} has no file {name}, which holds images of the {split} split.",
        "Download the archive again.",
        path=source,
        name=name,
    )


def _unexpected(source: Path, name: str, reason: str) -> DatasetError:
    return DatasetError(
        f"{name} in {source} is not an original CIFAR file: {reason}.",
        "Download the archive from https://www.cs.toronto.edu/~kriz/cifar.html.",
        path=source,
        name=name,
    )
