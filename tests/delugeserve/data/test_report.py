"""The report about a source: what it counts, and what it finds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delugeserve.data import duplicates
from delugeserve.data.catalogue import open_source
from delugeserve.data.pixels import measure_pixels
from delugeserve.data.report import DataReport, Finding, survey
from delugeserve.errors import DatasetError

RNG = np.random.default_rng(0)


def photo(size: tuple[int, int] = (20, 16)) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def put(path: Path, content: bytes | None = None) -> bytes:
    content = photo() if content is None else content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return content


def fill(folder: Path, **counts: int) -> Path:
    for name, count in counts.items():
        for number in range(count):
            put(folder / name / f"{number}.png")
    return folder


def look(folder: Path, **options: float) -> DataReport:
    return survey(open_source(folder, **options))


def kinds(report: DataReport) -> list[str]:
    return [finding.kind for finding in report.findings]


def finding(report: DataReport, kind: str) -> Finding:
    (found,) = [finding for finding in report.findings if finding.kind == kind]
    return found


def test_good_data_has_no_findings(tmp_path):
    fill(tmp_path / "train", rose=12, tulip=10)
    fill(tmp_path / "test", rose=3, tulip=4)
    put(tmp_path / "train" / "rose" / "big.png", photo((64, 48)))
    report = look(tmp_path)
    assert report.findings == ()
    assert report.counts == {"train": (12, 9), "validation": (1, 1), "test": (3, 4)}
    assert report.images == report.measured == 30
    assert report.held_out == 0.1
    assert report.sizes is not None
    assert (report.sizes.smallest, report.sizes.largest) == ((20, 16), (64, 48))
    assert report.duplicates is not None
    assert (report.duplicates.compared, report.duplicates.total) == (30, 30)


def test_copies_within_and_across_splits(tmp_path):
    fill(tmp_path / "train", rose=4, tulip=4)
    fill(tmp_path / "test", rose=2, tulip=2)
    train, test = tmp_path / "train", tmp_path / "test"
    one = (train / "rose" / "0.png").read_bytes()
    put(train / "rose" / "again.png", one)
    put(train / "tulip" / "wrong.png", (train / "rose" / "1.png").read_bytes())
    put(test / "rose" / "leak.png", (train / "rose" / "2.png").read_bytes())
    put(test / "rose" / "leak2.png", (train / "rose" / "2.png").read_bytes())
    report = look(tmp_path, val_fraction=0)
    found = report.duplicates
    assert found is not None
    within = {copies.splits[0]: copies.images for copies in found.within}
    assert within == {"train": 2, "test": 1}
    (leak,) = found.across
    assert (leak.splits, leak.images) == (("train", "test"), 2)
    assert leak.example[0] == str(train / "rose" / "2.png")
    assert Path(leak.example[1]).name.startswith("leak")
    assert found.relabelled == 1
    assert found.example == (str(train / "rose" / "1.png"), str(train / "tulip" / "wrong.png"))
    assert kinds(report) == ["leak", "two labels", "duplicates", "duplicates"]
    assert "2 images" in finding(report, "leak").problem


def test_what_is_held_out_counts_as_a_split(tmp_path):
    fill(tmp_path, rose=3, tulip=3)
    copy = (tmp_path / "rose" / "0.png").read_bytes()
    for number in range(40):
        put(tmp_path / "rose" / f"copy{number}.png", copy)
    report = look(tmp_path, val_fraction=0.5)
    assert report.duplicates is not None
    assert [copies.splits for copies in report.duplicates.across] == [("train", "validation")]


def test_only_images_of_equal_length_are_read(tmp_path, monkeypatch):
    fill(tmp_path, rose=1, tulip=1)
    for number in range(6):
        put(tmp_path / "rose" / f"x{number}.png", b"x" * (100 + number))
    read = []
    original = duplicates._read
    monkeypatch.setattr(duplicates, "_read", lambda image: read.append(image) or original(image))
    put(tmp_path / "tulip" / "y.png", b"y" * 103)
    report = look(tmp_path, val_fraction=0)
    assert {path.name for path in read} <= {"x3.png", "y.png", "0.png"}
    assert report.duplicates is not None
    assert report.duplicates.across == report.duplicates.within == ()


def test_no_more_is_read_than_the_limit(tmp_path, monkeypatch):
    for number in range(10):
        for name in ("rose", "tulip"):
            put(tmp_path / name / f"{number}a.png", bytes([number]) * (50 + number))
            put(tmp_path / name / f"{number}b.png", bytes([99 + number]) * (50 + number))
    monkeypatch.setattr(duplicates, "MOST_BYTES", 300)
    report = look(tmp_path, val_fraction=0)
    assert report.duplicates is not None
    assert 4 <= report.duplicates.compared < report.duplicates.total == 40


def test_imbalance_is_warned_about_above_ten(tmp_path):
    fill(tmp_path, rose=20, tulip=2)
    assert "imbalance" not in kinds(look(tmp_path, val_fraction=0))
    put(tmp_path / "rose" / "more.png")
    report = look(tmp_path, val_fraction=0)
    assert report.imbalance == 10.5
    assert "--class-weights balanced" in finding(report, "imbalance").remedy
    assert "'rose' 21, 'tulip' 2" in finding(report, "imbalance").problem


def test_names_empty_classes_and_classes_that_a_split_lacks(tmp_path):
    fill(tmp_path / "train", rose=2, Rose=2, tulip=2)
    fill(tmp_path / "test", rose=1, tulip=1)
    (tmp_path / "train" / "notes").mkdir()
    report = look(tmp_path, val_fraction=0)
    assert kinds(report) == ["similar names", "missing classes", "empty classes"]
    assert report.empty_classes == ("notes",)
    assert "'Rose'" in finding(report, "missing classes").problem


def test_one_class_and_no_training_images(tmp_path):
    assert "one class" in kinds(look(fill(tmp_path / "a", rose=3)))
    fill(tmp_path / "b" / "test", rose=3, tulip=3)
    assert kinds(look(tmp_path / "b")) == ["no training images"]


def test_what_is_skipped_or_unreadable(tmp_path):
    fill(tmp_path, rose=3, tulip=3)
    put(tmp_path / "rose" / ".DS_Store", b"")
    assert kinds(look(tmp_path)) == []
    put(tmp_path / "rose" / "notes.txt", b"")
    put(tmp_path / "rose" / "broken.png", b"broken")
    report = look(tmp_path)
    assert kinds(report) == ["unreadable", "skipped"]
    assert report.unreadable == (str(tmp_path / "rose" / "broken.png"),)
    assert report.skipped["train"].kinds == {".txt": 1, "hidden": 1}


@pytest.mark.parametrize("groups", [1, 50])
def test_few_row_groups_are_read_for_the_sizes(tmp_path, groups):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    images = [photo((10 + number % 7, 9)) for number in range(100)]
    table = pa.table({"image": images, "label": ["a", "b"] * 50})
    pq.write_table(table, tmp_path / "train.parquet", row_group_size=100 // groups)
    report = look(tmp_path, val_fraction=0)
    assert report.measured == (100 if groups == 1 else 16)
    assert report.sizes is not None


# Statistics of the pixels


def test_mean_and_deviation_of_the_pixels(tmp_path):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (30, 16, 16, 3), np.uint8) // np.array([1, 2, 4], np.uint8)
    for number, image in enumerate(images):
        path = tmp_path / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    encoded = open_source(tmp_path, val_fraction=0).index("train")
    found = measure_pixels(encoded, 16, 16)
    np.testing.assert_allclose(found.mean, images.mean((0, 1, 2)) / 255, atol=6e-5)
    np.testing.assert_allclose(found.std, images.std((0, 1, 2)) / 255, atol=6e-5)
    assert found.images == 30
    some = [measure_pixels(encoded, 16, 16, sample=10, seed=seed) for seed in (0, 0, 1)]
    assert some[0] == some[1] != some[2]
    assert some[0].images == 10


def test_images_of_one_colour_can_be_divided_by_their_deviation(tmp_path):
    for name in ("a", "b"):
        stream = io.BytesIO()
        Image.new("RGB", (8, 8), (10, 20, 30)).save(stream, "PNG")
        put(tmp_path / name / "0.png", stream.getvalue())
    encoded = open_source(tmp_path, val_fraction=0).index("train")
    assert min(measure_pixels(encoded, 8, 8).std) > 0


def test_no_image_that_can_be_measured(tmp_path):
    put(tmp_path / "a" / "0.png", b"broken")
    put(tmp_path / "b" / "0.png", b"broken")
    with pytest.raises(DatasetError) as caught:
        measure_pixels(open_source(tmp_path, val_fraction=0).index("train"), 8, 8)
    assert caught.value.found == 2
