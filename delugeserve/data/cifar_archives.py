"""Reading the original CIFAR-10 and CIFAR-100 archives: the Python and the binary edition.

Both are described at https://www.cs.toronto.edu/~kriz/cifar.html. Packed archives are read as they
lie; nothing is extracted.
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

from delugeserve.data.pickles import unpickle_table
from delugeserve.data.splits import Split, SplitName, allocate, check_size
from delugeserve.errors import DatasetError
from delugeserve.zoo import DatasetSpec

_SIZE = 32
_PIXELS = 3 * _SIZE * _SIZE

# No file of these archives reaches half of this; a larger one is no part of them.
_LARGEST_FILE = 512 * 2**20

_ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar")


@dataclass(frozen=True)
class _Edition:
    """How one of the four archives is laid out.

    Attributes:
        dataset: the name of its data set in ``zoo.DATASETS``.
        folder: what it unpacks to.
        archive: what it is called while packed, without the suffix.
        train: its files of training images.
        test: its files of test images.
        names: the file with the class names.
        labels: the key of the labels in a pickle.
        label_bytes: how many bytes of labels precede the pixels of a binary record; the last one
            is the class. None for pickles.
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


def read(path: Path, split: SplitName, dataset: DatasetSpec, limit: int | None) -> Split | None:
    """Read a split from a CIFAR archive, packed or unpacked, or from a folder that holds one.

    Where a folder holds several, one of the data set's own goes first.

    Args:
        path: a file or a folder.
        split: which split.
        dataset: gives the size that the images must have.
        limit: at most so many images.

    Returns:
        None if there is no such archive.

    Raises:
        DatasetError: the archive is damaged, lacks a file, or its pickles ask for code to be run.
    """
    editions = sorted(_EDITIONS, key=lambda edition: edition.dataset != dataset.name)
    found = _find_unpacked(path, editions)
    archive = _find_archive(path, editions)
    if found is not None:
        content = _read_folder(*found, split)
    elif archive is not None:
        content = _read_archive(archive, split, editions)
    else:
        return None
    check_size(_SIZE, _SIZE, dataset, f"Each image of {content.source}")
    return _parse(content, split, dataset, limit)


def is_there(path: Path, split: SplitName, dataset: DatasetSpec) -> bool:
    """Whether there is an archive where ``read`` would look for one, packed or unpacked.

    Which splits a packed one holds, only reading it would tell.

    Raises:
        DatasetError: it is unpacked, and lacks a file of the split.
    """
    editions = sorted(_EDITIONS, key=lambda edition: edition.dataset != dataset.name)
    found = _find_unpacked(path, editions)
    if found is None:
        return _find_archive(path, editions) is not None
    folder, edition = found
    for name in edition.files(split):
        if not (folder / name).is_file():
            raise _lacks(folder, name, split)
    return True


@dataclass(frozen=True)
class _Content:
    """The bytes of an archive's files, by name."""

    source: str
    edition: _Edition
    files: dict[str, bytes]


def _find_unpacked(path: Path, editions: Iterable[_Edition]) -> tuple[Path, _Edition] | None:
    for edition in editions:
        for folder in (path / edition.folder, path):
            # Names such as "train" occur elsewhere too: two files of an edition tell it.
            every = (*edition.train, *edition.test, edition.names)
            if sum((folder / name).is_file() for name in every) >= 2:
                return folder, edition
    return None


def _find_archive(path: Path, editions: Iterable[_Edition]) -> Path | None:
    if path.is_file():
        return path if path.name.endswith(_ARCHIVE_SUFFIXES) else None
    for edition in editions:
        for suffix in _ARCHIVE_SUFFIXES:
            archive = path / (edition.archive + suffix)
            if archive.is_file():
                return archive
    return None


def _read_folder(folder: Path, edition: _Edition, split: SplitName) -> _Content:
    wanted = (*edition.files(split), edition.names)
    files = {}
    for name in wanted:
        path = folder / name
        if path.is_file():
            _check_length(path.stat().st_size, path)
            files[name] = path.read_bytes()
    return _Content(str(folder), edition, files)


def _read_archive(path: Path, split: SplitName, editions: Iterable[_Edition]) -> _Content:
    """Read what belongs to a split, in one pass over the archive."""
    by_folder = {edition.folder: edition for edition in editions}
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
                    _check_length(member.size, f"{path}: {member.name}")
                    stream = archive.extractfile(member)
                    files[name.name] = stream.read() if stream else b""
            # The compressed file's checksum lies behind all that tar has read.
            while archive.fileobj and archive.fileobj.read(2**20):
                pass
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        if isinstance(error, PermissionError):
            raise
        raise DatasetError(
            f"{path} is not a tar archive, or is damaged or truncated.", "Fetch it again."
        ) from error
    if edition is None:
        names = ", ".join(edition.folder for edition in _EDITIONS)
        raise DatasetError(
            f"{path} is none of the CIFAR archives: it holds none of {names}.",
            "Unpack it, and give the folder.",
        )
    return _Content(str(path), edition, files)


def _check_length(length: int, what: object) -> None:
    if length > _LARGEST_FILE:
        raise DatasetError(
            f"{what} is {length / 2**20:,.0f} MiB long, which no file of CIFAR is.",
            "Fetch the archive again, from its authors.",
        )


def _parse(content: _Content, split: SplitName, dataset: DatasetSpec, limit: int | None) -> Split:
    edition = content.edition
    parts = []
    missing = limit
    for name in edition.files(split):
        if name not in content.files:
            raise _lacks(content.source, name, split)
        where = f"{content.source}: {name}"
        data = content.files[name]
        if edition.label_bytes is None:
            pixels, labels = _parse_pickle(data, edition.labels, where)
        else:
            pixels, labels = parse_records(data, edition.label_bytes, where)
        parts.append((pixels[:missing], labels[:missing]))
        if missing is not None:
            missing -= len(parts[-1][1])
            if not missing:
                break
    images = allocate(sum(len(labels) for _, labels in parts), dataset, content.source)
    start = 0
    for pixels, labels in parts:
        planes = pixels.reshape(-1, 3, _SIZE, _SIZE)
        images[start : start + len(labels)] = planes.transpose(0, 2, 3, 1)
        start += len(labels)
    names = _class_names(content)
    return Split(content.source, images, np.concatenate([label for _, label in parts]), names)


def parse_records(
    data: bytes, label_bytes: int, where: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Take the records of the binary edition apart.

    Args:
        data: records of some bytes of labels, the class last, and 3072 of pixels: the red plane,
            the green and the blue, row by row.
        label_bytes: 1 for CIFAR-10; 2 for CIFAR-100, whose coarse label comes first.
        where: what to call the file in a message.

    Returns:
        uint8 ``[N, 3072]`` and int64 ``[N]``.

    Raises:
        DatasetError: the last record is incomplete.
    """
    length = label_bytes + _PIXELS
    if len(data) % length:
        raise DatasetError(
            f"{where} is truncated: {len(data)} bytes are not a multiple of {length}.",
            "Fetch it again.",
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, length)
    return records[:, label_bytes:], records[:, label_bytes - 1].astype(np.int64)


def _parse_pickle(data: bytes, key: str, where: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    table = _unpickle(data, where)
    pixels, labels = table.get("data"), table.get(key)
    if not isinstance(pixels, np.ndarray) or not isinstance(labels, list):
        raise _unexpected(where, f"it lacks 'data' or '{key}'")
    if pixels.shape != (len(labels), _PIXELS):
        raise _unexpected(
            where, f"its pixels have the shape {list(pixels.shape)}, for {len(labels)} labels"
        )
    if not all(isinstance(label, int) and abs(label) < 2**31 for label in labels):
        raise _unexpected(where, "its labels are not integers")
    return pixels, np.array(labels, np.int64)


def _class_names(content: _Content) -> tuple[str, ...] | None:
    edition = content.edition
    data = content.files.get(edition.names)
    if data is None:
        return None
    where = f"{content.source}: {edition.names}"
    if edition.label_bytes is not None:
        return tuple(data.decode("utf-8", "replace").split())
    key = "label_names" if edition.labels == "labels" else "fine_label_names"
    names = _unpickle(data, where).get(key)
    if not isinstance(names, list):
        raise _unexpected(where, f"it lacks '{key}'")
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)


def _unpickle(data: bytes, where: str) -> dict[str, object]:
    try:
        return unpickle_table(data)
    except pickle.UnpicklingError as error:
        raise _unexpected(where, str(error)) from error


def _lacks(source: object, name: str, split: SplitName) -> DatasetError:
    return DatasetError(
        f"{source} lacks the file {name}, of the {split} split.", "Fetch the archive again."
    )


def _unexpected(where: str, reason: str) -> DatasetError:
    return DatasetError(
        f"{where} was not read, because {reason}: it is not a file of CIFAR as its authors made"
        " it.",
        "Fetch the archive again, from its authors.",
    )
