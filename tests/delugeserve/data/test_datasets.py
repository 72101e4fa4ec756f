"""What all sources of images have in common, and the parquet reader."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from delugeserve.data import hub
from delugeserve.data.datasets import check_source, fingerprint, load_images
from delugeserve.data.unreadable import left_out
from delugeserve.errors import DatasetError, MissingExtraError
from delugeserve.zoo import CIFAR10, CIFAR100, IMAGENET
from delugeserve_client.preprocessing import Preprocessing

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

PIXELS = np.random.default_rng(1).integers(0, 256, (20, 32, 32, 3), np.uint8)
LABELS = np.arange(20) % 10


def encode(image: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind)
    return stream.getvalue()


def write_parquet(
    path: Path,
    images: NDArray[np.uint8] | Sequence[bytes | None] = PIXELS,
    labels: Sequence[int | None] | NDArray[np.int64] = LABELS,
    *,
    columns: tuple[str, str] = ("image", "label"),
    names: Sequence[str] | None = CIFAR10.class_names,
) -> Path:
    encoded = [encode(image) if isinstance(image, np.ndarray) else image for image in images]
    structs = [{"bytes": data, "path": f"{row}.png"} for row, data in enumerate(encoded)]
    table = pa.table(
        {
            columns[0]: pa.array(
                structs, pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            ),
            columns[1]: pa.array(labels, pa.int64()),
            "coarse_label": pa.array([0] * len(encoded), pa.int64()),
        }
    )
    if names is not None:
        features = {columns[1]: {"_type": "ClassLabel", "names": list(names)}}
        text = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": text})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=7)
    return path


def refusal(*args: Any, **options: Any) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        load_images(*args, **options)
    error = caught.value
    assert error.problem.endswith(".")
    assert error.remedy.endswith((".", "?"))
    return error


# Where the images come from


@pytest.mark.parametrize("columns", [("image", "label"), ("img", "fine_label")])
@pytest.mark.parametrize(
    "parts",
    [
        ["train.parquet"],
        ["data/train-00000-of-00001.parquet"],
        ["plain_text/train-00000-of-00002.parquet", "plain_text/train-00001-of-00002.parquet"],
        ["plain_text/train/0000.parquet", "plain_text/train/0001.parquet"],
    ],
)
def test_parquet_is_found_under_the_names_in_use(
    tmp_path: Path, parts: list[str], columns: tuple[str, str]
) -> None:
    for name, rows in zip(parts, np.split(np.arange(20), len(parts)), strict=True):
        write_parquet(tmp_path / name, PIXELS[rows], LABELS[rows], columns=columns)
    write_parquet(tmp_path / parts[0].replace("train", "test"), PIXELS[:3], LABELS[:3])

    data = load_images(tmp_path, "train", CIFAR10)

    np.testing.assert_array_equal(data.images, PIXELS)
    np.testing.assert_array_equal(data.labels, LABELS)
    assert data.class_names == CIFAR10.class_names
    assert data.images.dtype == np.uint8
    assert data.labels.dtype == np.int64
    assert data.images.flags.c_contiguous


def test_a_single_parquet_file_serves_as_the_split_its_name_says(tmp_path: Path) -> None:
    train = write_parquet(tmp_path / "train.parquet")
    other = write_parquet(tmp_path / "mine.parquet")
    assert len(load_images(train, "train", CIFAR10)) == 20
    assert len(load_images(other, "train", CIFAR10)) == 20
    assert len(load_images(other, "test", CIFAR10)) == 20
    assert "not the test split" in refusal(train, "test", CIFAR10).problem


def test_a_plain_column_of_encoded_images_will_do(tmp_path: Path) -> None:
    encoded = [encode(image) for image in PIXELS]
    pq.write_table(pa.table({"img": encoded, "label": LABELS}), tmp_path / "test.parquet")
    np.testing.assert_array_equal(load_images(tmp_path, "test", CIFAR10).images, PIXELS)


def test_grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    grey = PIXELS[0, :, :, 0]
    opaque = np.dstack([PIXELS[1], np.full((32, 32), 255, np.uint8)])
    write_parquet(tmp_path / "test.parquet", [encode(grey), encode(opaque)], [0, 1])
    data = load_images(tmp_path, "test", CIFAR10)
    np.testing.assert_array_equal(data.images[0], np.dstack([grey] * 3))
    np.testing.assert_array_equal(data.images[1], PIXELS[1])


@pytest.mark.parametrize(("limit", "length"), [(1, 1), (7, 7), (15, 15), (20, 20), (99, 20)])
def test_a_limit_takes_the_first_images(tmp_path: Path, limit: int, length: int) -> None:
    write_parquet(tmp_path / "train.parquet")
    data = load_images(str(tmp_path), "train", CIFAR10, limit=limit)
    np.testing.assert_array_equal(data.images, PIXELS[:length])
    np.testing.assert_array_equal(data.labels, LABELS[:length])


def test_a_hub_name_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    write_parquet(tmp_path / "snapshot/plain_text/test-00000-of-00001.parquet")
    asked: dict[str, Any] = {}

    def download(**options: Any) -> str:
        asked.update(options)
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    assert len(load_images("cifar10", "test", CIFAR10)) == 20
    assert asked == {
        "repo_id": "uoft-cs/cifar10",
        "repo_type": "dataset",
        "allow_patterns": ["*/test-*.parquet"],
    }


def test_a_folder_of_a_hub_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, split: str) -> Path:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(hub, "download", download)
    monkeypatch.chdir(tmp_path)
    write_parquet(tmp_path / "cifar10" / "test.parquet")
    assert len(load_images("cifar10", "test", CIFAR10)) == 20


def test_offline_the_hub_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def download(**_: Any) -> str:
        raise ConnectionError("Name or service not known\nand much more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    error = refusal("cifar10", "test", CIFAR10)
    assert "(Name or service not known)." in error.problem
    assert "--data" in error.remedy


# Classes


def test_other_spellings_and_orders_of_the_classes_come_out_the_same(tmp_path: Path) -> None:
    shuffled = [name.upper() for name in reversed(CIFAR10.class_names)]
    write_parquet(tmp_path / "train.parquet", labels=9 - LABELS, names=shuffled)
    write_parquet(tmp_path / "test.parquet")
    train, test = (load_images(tmp_path, split, CIFAR10) for split in ("train", "test"))
    np.testing.assert_array_equal(train.labels, LABELS)
    assert train.class_names == test.class_names == CIFAR10.class_names
    assert train.fingerprint == test.fingerprint


def test_the_hubs_cifar100_has_the_classes_of_cifar100(tmp_path: Path) -> None:
    names = [name.replace(" ", "_") for name in CIFAR100.class_names]
    names[names.index("crab")] = "cra"
    write_parquet(tmp_path / "test.parquet", columns=("img", "fine_label"), names=names)
    data = load_images(tmp_path, "test", CIFAR100)
    assert data.class_names == CIFAR100.class_names
    np.testing.assert_array_equal(data.labels, LABELS)


def test_foreign_classes_of_the_right_number_keep_their_names(tmp_path: Path) -> None:
    names = tuple(f"cheese {number}" for number in range(10))
    write_parquet(tmp_path / "test.parquet", names=names)
    assert load_images(tmp_path, "test", CIFAR10).class_names == names


def test_without_names_the_data_sets_own_count(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", names=None)
    assert load_images(tmp_path, "test", CIFAR10).class_names == CIFAR10.class_names


def test_data_of_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", names=CIFAR100.class_names)
    error = refusal(tmp_path, "test", CIFAR10)
    assert "has 100 classes, and CIFAR-10 has 10." in error.problem


@pytest.mark.parametrize("label", [-1, 10, 2**40])
def test_a_label_out_of_range_is_refused(tmp_path: Path, label: int) -> None:
    labels = LABELS.copy()
    labels[13] = label
    write_parquet(tmp_path / "test.parquet", labels=labels)
    error = refusal(tmp_path, "test", CIFAR10)
    assert f"Image 13 of {tmp_path / 'test.parquet'}" in error.problem
    assert str(label) in error.problem
    assert "from 0 to 9" in error.problem


# The fingerprint


def test_the_fingerprint_names_content_and_not_order() -> None:
    first = fingerprint(PIXELS, LABELS)
    order = np.random.default_rng(2).permutation(20)
    assert fingerprint(PIXELS[order], LABELS[order]) == first
    assert len(bytes.fromhex(first)) == 32


def test_the_fingerprint_sees_a_pixel_a_label_and_a_shape() -> None:
    first = fingerprint(PIXELS, LABELS)
    brighter, relabelled = PIXELS.copy(), LABELS.copy()
    brighter[3, 4, 5, 1] ^= 1
    relabelled[3] += 1
    wider = PIXELS.reshape(20, 16, 64, 3)
    others = {
        fingerprint(brighter, LABELS),
        fingerprint(PIXELS, relabelled),
        fingerprint(wider, LABELS),
        fingerprint(PIXELS[:-1], LABELS[:-1]),
    }
    assert first not in others
    assert len(others) == 4


# What can be wrong


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ("cifar-10", "Did you mean 'cifar10', which is downloaded?"),
        ("CIFAR100", "Did you mean 'cifar100', which is downloaded?"),
        ("data/nowhere", "Check the path, or give 'cifar10' or 'cifar100' to download"),
    ],
)
def test_no_such_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, remedy: str
) -> None:
    monkeypatch.chdir(tmp_path)
    error = refusal(source, "test", CIFAR10)
    assert error.problem == f"There is no file or folder '{source}'."
    assert remedy in error.remedy


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    assert "holds no images" in refusal(tmp_path, "test", CIFAR10).problem
    assert "holds no images" in refusal(tmp_path / "notes.txt", "test", CIFAR10).problem


def test_a_missing_split(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet")
    error = refusal(tmp_path, "test", CIFAR10)
    assert "none of the test split" in error.problem
    assert "test.parquet" in error.remedy


def test_a_missing_shard(tmp_path: Path) -> None:
    for part in (0, 2):
        write_parquet(tmp_path / f"data/train-0000{part}-of-00003.parquet")
    assert "lacks part 00001" in refusal(tmp_path, "train", CIFAR10).problem


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"),
        ("train-00000-of-00001", "train"),
        ("0000", "train"),
    ],
)
def test_files_of_two_downloads(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        write_parquet(tmp_path / f"train/{name}.parquet")
    error = refusal(tmp_path, "train", CIFAR10)
    assert f"of two downloads: {names[0]}.parquet and {names[1]}.parquet." in error.problem


def test_a_split_in_two_places(tmp_path: Path) -> None:
    for config in ("full", "small"):
        write_parquet(tmp_path / config / "train-00000-of-00001.parquet")
    error = refusal(tmp_path, "train", CIFAR10)
    assert "more than once" in error.problem
    assert len(load_images(tmp_path / "small", "train", CIFAR10)) == 20


@pytest.mark.parametrize("columns", [("picture", "label"), ("image", "class")])
def test_a_missing_column(tmp_path: Path, columns: tuple[str, str]) -> None:
    write_parquet(tmp_path / "test.parquet", columns=columns, names=None)
    missing = "image" if columns[0] == "picture" else "label"
    error = refusal(tmp_path, "test", CIFAR10)
    assert f"no column '{missing}'; it has {columns[0]}, {columns[1]}" in error.problem


@pytest.mark.parametrize(
    ("columns", "wrong"),
    [
        ({"image": ["a.png"], "label": [0]}, "'image'"),
        ({"image": [b""], "label": ["cat"]}, "'label'"),
    ],
)
def test_a_column_of_the_wrong_type(
    tmp_path: Path, columns: dict[str, list[Any]], wrong: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "test.parquet")
    assert f"The column {wrong}" in refusal(tmp_path, "test", CIFAR10).problem


@pytest.mark.parametrize("damage", [b"", b"not an image", encode(PIXELS[0], "JPEG")[:500], None])
def test_an_unreadable_image_is_named(tmp_path: Path, damage: bytes | None) -> None:
    images = [encode(image) for image in PIXELS]
    write_parquet(tmp_path / "test.parquet", [*images[:9], damage, *images[10:]])
    assert "The image in row 9 of" in refusal(tmp_path, "test", CIFAR10).problem
    assert len(load_images(tmp_path, "test", CIFAR10, limit=9)) == 9


def test_unreadable_images_are_left_out_and_told_of(tmp_path: Path) -> None:
    images: list[bytes | None] = [encode(image) for image in PIXELS]
    images[9], images[16] = b"not an image", None  # in different row groups
    write_parquet(tmp_path / "test.parquet", images)
    told: list[Sequence[str]] = []
    found = load_images(tmp_path, "test", CIFAR10, skip=told.append)
    rows = [row for row in range(20) if row not in (9, 16)]
    np.testing.assert_array_equal(found.images, PIXELS[rows])
    np.testing.assert_array_equal(found.labels, LABELS[rows])
    (names,) = told
    assert ["row 9" in names[0], "row 16" in names[1], len(names)] == [True, True, 2]
    assert left_out(names).startswith("2 images could not be read, and were left out: The image in")
    told.clear()
    load_images(tmp_path, "test", CIFAR10, limit=9, skip=told.append)
    assert not told
    write_parquet(tmp_path / "test.parquet", [b"", b""], [0, 1])
    assert "holds no images" in refusal(tmp_path, "test", CIFAR10, skip=told.append).problem


def test_imagenets_photographs_have_any_size(tmp_path: Path) -> None:
    photo, cut = (
        np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        for size in ((260, 390), (224, 224))
    )
    write_parquet(tmp_path / "test.parquet", [encode(photo), encode(cut)], [0, 1], names=None)
    found = load_images(tmp_path, "test", IMAGENET)
    np.testing.assert_array_equal(found.images[0], Preprocessing(224, 224, 256)(photo))
    np.testing.assert_array_equal(found.images[1], cut)


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    images = [encode(PIXELS[0]), encode(PIXELS[1, :20])]
    write_parquet(tmp_path / "test.parquet", images, [0, 1])
    error = refusal(tmp_path, "test", CIFAR10)
    assert "row 1" in error.problem
    assert "32 x 20 pixels, and images of CIFAR-10 are 32 x 32" in error.problem


def test_a_row_without_a_label(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", labels=[*LABELS[:-1], None])
    assert "without a label" in refusal(tmp_path, "test", CIFAR10).problem


@pytest.mark.parametrize("kept", [0, 3, 1000, -1])
def test_a_truncated_parquet_file(tmp_path: Path, kept: int) -> None:
    whole = write_parquet(tmp_path / "test.parquet").read_bytes()
    (tmp_path / "test.parquet").write_bytes(whole[:kept])
    assert "truncated" in refusal(tmp_path, "test", CIFAR10).problem


def test_damage_inside_a_parquet_file(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "test.parquet")
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)
    path.write_bytes(content)
    refusal(tmp_path, "test", CIFAR10)


def test_a_split_of_no_rows(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", [], [])
    assert "holds no images" in refusal(tmp_path, "test", CIFAR10).problem


def test_a_limit_of_none_at_all(tmp_path: Path) -> None:
    assert "limit of 0" in refusal(tmp_path, "test", CIFAR10, limit=0).problem


def test_more_images_than_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 16)
    write_parquet(tmp_path / "test.parquet")
    assert "more than this machine has" in refusal(tmp_path, "test", CIFAR10).problem


def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "test.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"delugeserve\[train\]"):
        load_images(tmp_path, "test", CIFAR10)


# Real images


@pytest.mark.data
def test_reads_cifar10(cifar10_dir: Path) -> None:
    data = load_images(cifar10_dir, "test", CIFAR10)
    assert data.images.shape == (10_000, 32, 32, 3)
    assert np.bincount(data.labels).tolist() == [1000] * 10
    assert data.class_names == CIFAR10.class_names
    # The mean of each class differs from that of the others: pixels and labels belong together.
    assert 110 < data.images.mean() < 130
    by_class = [data.images[data.labels == label].mean() for label in range(10)]
    assert by_class[0] - by_class[6] > 20  # airplanes before the sky, frogs on the ground


def test_the_tiny_data_set_is_read_like_the_real_one(tiny_cifar: Path) -> None:
    train = load_images(tiny_cifar, "train", CIFAR10)
    test = load_images(tiny_cifar, "test", CIFAR10)
    assert (len(train), len(test)) == (200, 100)
    assert np.bincount(train.labels).tolist() == [20] * 10
    # Learnable: the nearest mean colour of the training images tells the class.
    means = np.stack([train.images[train.labels == label].mean((0, 1, 2)) for label in range(10)])
    colours = test.images.mean((1, 2))
    nearest = ((colours[:, None] - means) ** 2).sum(2).argmin(1)
    np.testing.assert_array_equal(nearest, test.labels)


@pytest.mark.parametrize(
    "files",
    [
        ["test.parquet"],
        ["plain_text/test/0000.parquet"],
        ["test/cat/1.png"],
        ["cifar-10-batches-py/test_batch", "cifar-10-batches-py/batches.meta"],
        ["cifar-10-python.tar.gz"],
    ],
    ids=lambda files: files[0],
)
def test_a_data_set_is_known_by_its_files_names(tmp_path: Path, files: list[str]) -> None:
    """None of them is opened: these are empty."""
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    check_source(tmp_path, "test", CIFAR10)
    if not files[0].endswith(".tar.gz"):  # which may hold anything
        with pytest.raises(DatasetError, match="train"):
            check_source(tmp_path, "train", CIFAR10)


@pytest.mark.parametrize(
    ("source", "message"),
    [("gone", "no file or folder"), (".", "holds no images"), ("notes.txt", "holds no images")],
)
def test_what_is_no_data_set_is_known_before_it_is_read(
    tmp_path: Path, source: str, message: str
) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DatasetError, match=message):
        check_source(tmp_path / source, "test", CIFAR10)


def test_a_public_data_set_is_downloaded_only_when_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub, "download", lambda *_: pytest.fail("it was downloaded"))
    check_source("cifar10", "test", CIFAR10)
