"""The CIFAR archives: every edition, packed and unpacked, damaged and malicious."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from delugeserve.data.datasets import load_images
from delugeserve.data.readers.cifar_archives import parse_records
from delugeserve.data.readers.pickles import unpickle_table
from delugeserve.errors import DatasetError
from delugeserve.zoo import CIFAR10, CIFAR100, Task

Dump = Callable[[dict[str, Any]], bytes]

RNG = np.random.default_rng(1)
TRAIN = RNG.integers(0, 256, (50, 32, 32, 3), np.uint8), np.arange(50) % 10
TEST = RNG.integers(0, 256, (20, 32, 32, 3), np.uint8), np.arange(20) % 10

FOLDERS = {
    ("cifar10", "python"): "cifar-10-batches-py",
    ("cifar10", "binary"): "cifar-10-batches-bin",
    ("cifar100", "python"): "cifar-100-python",
    ("cifar100", "binary"): "cifar-100-binary",
}
TASKS = {"cifar10": CIFAR10, "cifar100": CIFAR100}
EDITIONS = sorted(FOLDERS)


def dump_as_python2(table: dict[str, Any]) -> bytes:
    """Pickle as Python 2, which wrote the archives, did: strings are bytes."""
    return b"\x80\x02" + _python2(table) + b"."


def _python2(value: Any) -> bytes:
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if value is None:
        return b"N"
    if isinstance(value, list):
        return b"](" + b"".join(map(_python2, value)) + b"e"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_python2, value)) + b"t"
    if isinstance(value, dict):
        pairs = b"".join(_python2(key) + _python2(some) for key, some in value.items())
        return b"}(" + pairs + b"u"
    begun = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + _python2((0,))
    dtype = b"cnumpy\ndtype\n" + _python2(("u1", 0, 1)) + b"R"
    dtype += _python2((3, "|", None, None, None, -1, -1, 0)) + b"b"
    state = b"(" + _python2(1) + _python2(value.shape) + dtype + b"\x89" + _python2(value.tobytes())
    return begun + _python2("b") + b"\x87R" + state + b"tb"


def dump_with(protocol: int) -> Dump:
    return lambda table: pickle.dumps(table, protocol)


def planes(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2).reshape(len(images), -1))


def archive_files(task: str, edition: str, dump: Dump = dump_as_python2) -> dict[str, bytes]:
    fine = task == "cifar100"
    parts = {"train": TRAIN, "test": TEST}
    if not fine:
        parts = {
            f"data_batch_{part + 1}": (TRAIN[0][part * 10 :][:10], TRAIN[1][part * 10 :][:10])
            for part in range(5)
        }
        parts["test_batch"] = TEST
    names = [name.replace(" ", "_") for name in TASKS[task].class_names]
    files = {}
    for name, (images, labels) in parts.items():
        if edition == "binary":
            before = [np.zeros_like(labels), labels] if fine else [labels]
            columns = np.stack(before, 1).astype(np.uint8)
            files[f"{name}.bin"] = np.hstack([columns, planes(images)]).tobytes()
        else:
            key = "fine_labels" if fine else "labels"
            files[name] = dump({"data": planes(images), key: labels.tolist(), "batch_label": name})
    if edition == "binary":
        text = "\n".join(names) + "\n\n"
        files["fine_label_names.txt" if fine else "batches.meta.txt"] = text.encode()
    else:
        key = "fine_label_names" if fine else "label_names"
        files["meta" if fine else "batches.meta"] = dump({key: names, "num_vis": 3072})
    return files


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_tar(path: Path, folder: str, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix != ".tar" else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def check(source: Path, task: Task) -> None:
    for split, (images, labels) in (("train", TRAIN), ("test", TEST)):
        data = load_images(source, split, task)
        np.testing.assert_array_equal(data.images, images)
        np.testing.assert_array_equal(data.labels, labels)
        assert data.class_names == task.class_names
        assert data.images.flags.c_contiguous
        some = load_images(source, split, task, limit=13)
        np.testing.assert_array_equal(some.images, images[:13])


def refusal(source: Path, task: Task = CIFAR10, split: str = "test") -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        load_images(source, split, task)
    return caught.value


@pytest.mark.parametrize(("task", "edition"), EDITIONS)
def test_unpacked(tmp_path: Path, task: str, edition: str) -> None:
    folder = write_folder(tmp_path / FOLDERS[task, edition], archive_files(task, edition))
    check(folder, TASKS[task])
    check(tmp_path, TASKS[task])
    check(folder.rename(tmp_path / "renamed"), TASKS[task])


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar"])
@pytest.mark.parametrize(("task", "edition"), EDITIONS)
def test_packed(tmp_path: Path, task: str, edition: str, suffix: str) -> None:
    path = tmp_path / f"{task.replace('cifar', 'cifar-')}-{edition}{suffix}"
    write_tar(path, FOLDERS[task, edition], archive_files(task, edition))
    check(path, TASKS[task])
    check(tmp_path, TASKS[task])
    check(path.rename(tmp_path / f"renamed{suffix}"), TASKS[task])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_python3(tmp_path: Path, protocol: int) -> None:
    write_folder(tmp_path / "x", archive_files("cifar10", "python", dump_with(protocol)))
    check(tmp_path / "x", CIFAR10)


def test_a_column_major_array(tmp_path: Path) -> None:
    files = archive_files("cifar10", "python")
    table = {"data": np.asfortranarray(planes(TEST[0])), "labels": TEST[1].tolist()}
    for protocol in (2, 5):
        folder = tmp_path / str(protocol)
        write_folder(folder, {**files, "test_batch": pickle.dumps(table, protocol)})
        np.testing.assert_array_equal(load_images(folder, "test", CIFAR10).images, TEST[0])


def test_of_several_archives_the_data_sets_own_is_read(tmp_path: Path) -> None:
    for task, edition in EDITIONS:
        write_folder(tmp_path / FOLDERS[task, edition], archive_files(task, edition))
    check(tmp_path, CIFAR10)
    check(tmp_path, CIFAR100)


def test_the_fingerprint_is_that_of_the_parquet_files(tmp_path: Path, tiny_cifar: Path) -> None:
    tiny = load_images(tiny_cifar, "test", CIFAR10)
    pickled = dump_as_python2({"data": planes(tiny.images), "labels": tiny.labels.tolist()})
    records = np.hstack([tiny.labels[:, None].astype(np.uint8), planes(tiny.images)]).tobytes()
    python = {**archive_files("cifar10", "python"), "test_batch": pickled}
    binary = {**archive_files("cifar10", "binary"), "test_batch.bin": records}
    for name, files in (("python", python), ("binary", binary)):
        data = load_images(write_folder(tmp_path / name, files), "test", CIFAR10)
        assert data.fingerprint == tiny.fingerprint


def test_without_class_names_the_data_sets_own_are_used(tmp_path: Path) -> None:
    files = archive_files("cifar10", "binary")
    del files["batches.meta.txt"]
    check(write_folder(tmp_path / "x", files), CIFAR10)


# Malicious pickles


class Runs:
    """Pickles as a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("name", ["test_batch", "batches.meta"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("call", ["mkdir", "eval", "getattr", "numpy"])
def test_a_pickle_that_runs_code_is_refused(
    tmp_path: Path, call: str, protocol: int, name: str
) -> None:
    made = tmp_path / "made"
    hostile = {
        "mkdir": Runs(os.mkdir, str(made)),
        "eval": Runs(eval, f"__import__('os').mkdir({str(made)!r})"),
        "getattr": Runs(getattr, np.ndarray, "tofile"),
        "numpy": Runs(np.save, str(made), np.zeros(3)),
    }[call]
    files = archive_files("cifar10", "python")
    files[name] = pickle.dumps({"data": hostile, "labels": []}, protocol)
    error = refusal(write_folder(tmp_path / "x", files))
    assert (error.path, error.name) == (str(tmp_path / "x"), name)
    assert isinstance(error.__cause__, pickle.UnpicklingError)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["x"]


PYTHON2 = dump_as_python2({"data": np.arange(12, dtype=np.uint8).reshape(3, 4), "labels": [1]})


@given(st.integers(0, len(PYTHON2) - 1), st.binary(min_size=1, max_size=4))
def test_a_damaged_pickle_of_python2_is_read_or_refused(position: int, damage: bytes) -> None:
    data = PYTHON2[:position] + damage + PYTHON2[position + len(damage) :]
    with contextlib.suppress(pickle.UnpicklingError):
        assert isinstance(unpickle_table(data), dict)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data": None}, "'data'"),
        ({"labels": "0123"}, "'labels'"),
        ({"labels": [0] * 19}, "[20, 3072]"),
        ({"labels": [0] * 19 + ["cat"]}, "integers"),
        ({"labels": [0] * 19 + [2**70]}, "integers"),
        ({"data": np.zeros((20, 100), np.uint8)}, "[20, 100]"),
    ],
)
def test_a_pickle_with_other_content(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    table = {"data": planes(TEST[0]), "labels": TEST[1].tolist(), **change}
    files = {**archive_files("cifar10", "python"), "test_batch": pickle.dumps(table)}
    error = refusal(write_folder(tmp_path / "x", files))
    assert error.name == "test_batch"
    assert reason in error.problem


# Damage


@pytest.mark.parametrize("kept", [0, 10, 1000, -1000, -5])
def test_a_truncated_archive(tmp_path: Path, kept: int) -> None:
    path = write_tar(
        tmp_path / "cifar-10-python.tar.gz",
        "cifar-10-batches-py",
        archive_files("cifar10", "python"),
    )
    path.write_bytes(path.read_bytes()[:kept])
    assert refusal(path).path == str(path)


def test_a_changed_byte_in_an_archive(tmp_path: Path) -> None:
    files = archive_files("cifar10", "binary")
    path = write_tar(tmp_path / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", files)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert refusal(path).path == str(path)


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "photos.tar.gz", "photos", {"a.png": b"123"})
    error = refusal(path)
    assert error.path == str(path)
    assert "Unpack" in error.remedy


@pytest.mark.parametrize(("task", "edition"), EDITIONS)
def test_a_truncated_file(tmp_path: Path, task: str, edition: str) -> None:
    files = archive_files(task, edition)
    name = next(name for name in files if name.startswith("test"))
    files[name] = files[name][:-3]
    error = refusal(write_folder(tmp_path / "x", files), TASKS[task])
    assert (error.path, error.name) == (str(tmp_path / "x"), name)


def test_a_missing_batch(tmp_path: Path) -> None:
    files = archive_files("cifar10", "binary")
    del files["data_batch_4.bin"]
    folder = write_folder(tmp_path / "x", files)
    error = refusal(folder, split="train")
    assert (error.path, error.name) == (str(folder), "data_batch_4.bin")
    assert len(load_images(folder, "test", CIFAR10)) == 20


def test_a_label_out_of_range(tmp_path: Path) -> None:
    files = archive_files("cifar10", "binary")
    files["test_batch.bin"] = b"\x0a" + files["test_batch.bin"][1:]
    error = refusal(write_folder(tmp_path / "x", files))
    assert (error.name, error.found) == ("0", 10)


@pytest.mark.parametrize("edition", ["python", "binary"])
def test_cifar100_is_not_for_a_model_of_ten_classes(tmp_path: Path, edition: str) -> None:
    write_folder(tmp_path / FOLDERS["cifar100", edition], archive_files("cifar100", edition))
    error = refusal(tmp_path)
    assert (error.found, error.expected) == (100, 10)


def test_a_file_too_large_to_be_of_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("delugeserve.data.readers.cifar_archives._LARGEST_FILE", 1000)
    files = archive_files("cifar10", "python")
    archive = write_tar(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", files)
    assert refusal(archive).name == "test_batch"
    assert refusal(write_folder(tmp_path / "x", files)).name == "test_batch"


# The binary edition's records


@given(
    st.sampled_from([1, 2]),
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), max_size=6),
    st.randoms(use_true_random=False),
)
def test_records_are_parsed_as_they_were_written(
    label_bytes: int, labels: list[tuple[int, int]], random: Any
) -> None:
    pixels = [random.randbytes(3072) for _ in labels]
    data = b"".join(
        bytes(label[2 - label_bytes :]) + some for label, some in zip(labels, pixels, strict=True)
    )
    images, classes = parse_records(data, label_bytes, Path("x"), "test.bin")
    assert [image.tobytes() for image in images] == pixels
    assert classes.tolist() == [label[1] for label in labels]
    assert images.shape == (len(labels), 3072)


@given(st.sampled_from([1, 2]), st.integers(0, 10_000))
def test_records_are_whole_or_refused(label_bytes: int, length: int) -> None:
    record = 3072 + label_bytes
    if length % record:
        with pytest.raises(DatasetError) as caught:
            parse_records(bytes(length), label_bytes, Path("x"), "test.bin")
        assert (caught.value.path, caught.value.name) == ("x", "test.bin")
        assert caught.value.found == length
    else:
        images, _ = parse_records(bytes(length), label_bytes, Path("x"), "test.bin")
        assert len(images) == length // record
