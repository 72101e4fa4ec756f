"""``delugeserve data``."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from delugeserve.cli import app
from delugeserve.errors import DatasetError

RNG = np.random.default_rng(0)


def fill(folder: Path, size: tuple[int, int] = (8, 9), **counts: int) -> Path:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            stream = io.BytesIO()
            Image.fromarray(RNG.integers(0, 256, (*size, 3), np.uint8)).save(stream, "PNG")
            (folder / name / f"{number}.png").write_bytes(stream.getvalue())
    return folder


def run(*arguments: str) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["data", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout, result.stderr


def test_the_table_is_data_and_findings_are_warnings(tmp_path):
    source = fill(tmp_path, rose=24, tulip=2)
    (source / "rose" / "notes.txt").touch()
    out, err = run(str(source))
    rows = [line.split() for line in out.splitlines()]
    assert ["class", "train", "validation"] in rows
    assert ["rose", "22", "2"] in rows
    assert ["all", "23", "3"] in rows
    assert "9x8 pixels" in out
    assert err.count("warning: ") == 2
    assert "--class-weights" in err
    assert "next: delugeserve train" in err


@pytest.mark.parametrize(
    ("size", "network"), [((90, 300), "delugenet38"), ((150, 130), "delugenet32")]
)
def test_the_next_command_has_a_network_for_the_size(tmp_path, size, network):
    source = fill(tmp_path, size, rose=3, tulip=3)
    _, err = run(str(source), "--no-duplicates")
    assert f"--model {network} " in " ".join(err.split())


def test_a_long_table_is_cut(tmp_path):
    source = fill(tmp_path, **{f"c{number:03}": 2 for number in range(40)})
    out, _ = run(str(source), "--no-duplicates", "--val-fraction", "0")
    assert "c028" in out
    assert "c029" not in out
    assert "... 11 more classes" in out


def test_json(tmp_path):
    source = fill(tmp_path, rose=3, tulip=3)
    (source / "tulip" / "copy.png").write_bytes((source / "rose" / "0.png").read_bytes())
    out, _ = run(str(source), "--val-fraction", "0", "--json")
    found = json.loads(out)
    assert found["counts"] == {"train": {"rose": 3, "tulip": 4}}
    assert found["form"] == "class folders"
    (copies,) = found["duplicates"]["within"]
    assert (copies["splits"], copies["images"]) == (["train", "train"], 1)
    assert [finding["kind"] for finding in found["findings"]] == ["two labels", "duplicates"]


def test_a_missing_path(tmp_path):
    with pytest.raises(DatasetError):
        run(str(tmp_path / "nowhere"))
