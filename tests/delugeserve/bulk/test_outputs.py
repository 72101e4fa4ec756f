"""JSON Lines, CSV and parquet."""

import base64
import csv
import json
from pathlib import Path

import pytest
from stub_labeller import MODEL, row_of

from delugeserve.bulk.items import Item
from delugeserve.bulk.outputs import FILE_FORMATS, format_of, parquet_rows
from delugeserve.errors import UsageError

NAMES = ["a.png", "bad.png", "caf\udce9.png", 'new\nline, "quoted".png', "ü\x1b[2J.png"]
ROWS = [row_of(Item(name)) for name in NAMES]
SHOWN = ["a.png", "bad.png", "caf\\xe9.png", 'new\nline, "quoted".png', "ü\x1b[2J.png"]


def write(folder, name, groups, rows=ROWS, top_k=2):
    """Write rows in groups of some sizes; return the output."""
    kind = FILE_FORMATS[name](MODEL, top_k)
    rows = list(rows)
    count = len(rows)
    log, output = folder / "log", folder / f"out.{name}"
    content = kind.header()
    for size in groups:
        content += kind.encode(rows[:size])
        rows = rows[size:]
    log.write_bytes(content + kind.encode(rows))
    assert len(list(kind.sources(log))) == count
    if kind.finished:
        return log
    kind.finish(log, output)
    return output


def test_json_lines(tmp_path):
    lines = write(tmp_path, "jsonl", []).read_bytes().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["source"] for record in records] == SHOWN
    assert records[0] == {
        "source": "a.png",
        "predictions": [
            {"label": p.label, "index": p.index, "probability": p.probability}
            for p in ROWS[0].predictions
        ],
        "model": "net",
        "version": "3",
        "digest": "0123456789abcdef",
    }
    assert records[1]["error"] == "bad.png is bad. Copy it."
    assert "predictions" not in records[1]
    assert base64.b64decode(records[2]["source_base64"]) == b"caf\xe9.png"
    assert "source_base64" not in records[0]
    assert "ü".encode() in lines[4]  # text is not escaped
    assert b"\x1b" not in lines[4]


def test_other_readers_take_the_json_lines(tmp_path):
    reader = pytest.importorskip("pyarrow.json")
    table = reader.read_json(write(tmp_path, "jsonl", []))
    assert table["source"].to_pylist() == SHOWN


def test_csv(tmp_path):
    with write(tmp_path, "csv", []).open(encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file))
    assert [record["source"] for record in records] == SHOWN
    first, second = ROWS[0].predictions
    assert records[0] == {
        "source": "a.png",
        "label": first.label,
        "index": str(first.index),
        "probability": str(first.probability),
        "label_2": second.label,
        "index_2": str(second.index),
        "probability_2": str(second.probability),
        "error": "",
        "model": "net",
        "version": "3",
        "digest": "0123456789abcdef",
    }
    assert records[1]["label"] == ""
    assert records[1]["error"] == "bad.png is bad. Copy it."


def test_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(write(tmp_path, "parquet", []))
    records = table.to_pylist()
    assert [record["source"] for record in records] == SHOWN
    assert records[2]["source_bytes"] == b"caf\xe9.png"
    assert records[0]["source_bytes"] is None
    assert records[0]["predictions"][1]["probability"] == ROWS[0].predictions[1].probability
    assert records[1]["predictions"] is None
    assert records[1]["error"] == "bad.png is bad. Copy it."
    assert {record["digest"] for record in records} == {MODEL.digest}
    assert table.schema.metadata[b"delugeserve.version"] == b"3"


@pytest.mark.parametrize("name", FILE_FORMATS)
def test_the_groups_do_not_show_in_the_output(tmp_path, name, monkeypatch):
    monkeypatch.setattr(parquet_rows, "ROWS_PER_GROUP", 64)
    rows = [row_of(Item(f"{number}{'bad' * (number % 7 == 0)}.png")) for number in range(500)]
    contents = set()
    for groups in ([], [1] * 100, [7, 250, 0, 63, 64, 65]):
        contents.add(write(tmp_path, name, groups, rows).read_bytes())
    assert len(contents) == 1
    if name == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        found = parquet.ParquetFile(tmp_path / "out.parquet").metadata
        assert [found.row_group(group).num_rows for group in range(8)] == [64] * 7 + [52]


@pytest.mark.slow
def test_the_pages_of_a_parquet_file_do_not_depend_on_the_groups(tmp_path):
    """A row group of its real size has several pages in a column."""
    pytest.importorskip("pyarrow")
    rows = [row_of(Item(f"{number * 7919 % 100_003:060d}.png")) for number in range(40_000)]
    contents = {
        write(tmp_path, "parquet", groups, rows).read_bytes() for groups in ([], [333] * 110)
    }
    assert len(contents) == 1


@pytest.mark.parametrize("name", FILE_FORMATS)
def test_the_names_of_a_log(tmp_path, name):
    write(tmp_path, name, [2])
    assert list(FILE_FORMATS[name](MODEL, 2).sources(tmp_path / "log")) == SHOWN


@pytest.mark.parametrize("name", FILE_FORMATS)
def test_no_rows(tmp_path, name):
    assert write(tmp_path, name, [], []).exists()


def test_the_format_is_that_of_the_suffix():
    assert format_of(Path("a.JSONL"), None) == "jsonl"
    assert format_of(Path("a.ndjson"), None) == "jsonl"
    assert format_of(Path("a.txt"), "csv") == "csv"
    for path, name in (("a.txt", None), ("a.csv", "table"), ("s3://a/b.csv", None)):
        with pytest.raises(UsageError):
            format_of(Path(path), name)
