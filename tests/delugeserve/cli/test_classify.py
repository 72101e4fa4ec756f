"""``classify`` with a stub in place of the server: lists, outputs and options."""

import csv
import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from stub_labeller import MODEL, StubLabeller

from delugeserve.bulk import engines
from delugeserve.bulk.engines.client import Endpoint
from delugeserve.cli import labelling
from delugeserve.errors import Failure, UsageError


@pytest.fixture
def labeller(monkeypatch):
    stub = StubLabeller()
    for module in (engines, labelling):
        monkeypatch.setattr(module, "open_labeller", lambda _: stub)
    monkeypatch.setattr(Endpoint, "pin", lambda self, version=None: self)
    return stub


@pytest.fixture
def given(monkeypatch):
    def given(stream):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))

    return given


@pytest.mark.parametrize("more", [(), ("--json",), ("--output", "a.jsonl")])
def test_an_empty_list_is_an_error(labeller, given, error, more, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given(io.BytesIO(b"\n"))
    assert type(error("classify", "-", *more)) is UsageError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("more", [(), ("--output", "a.jsonl")])
def test_a_list_that_cannot_be_read_is_no_fault_of_the_output(labeller, given, error, more):
    class Broken(io.BytesIO):
        def read1(self, _size=-1):
            raise IsADirectoryError(21, "Is a directory")

    given(Broken())
    found = error("classify", "-", *more)
    assert isinstance(found, Failure)
    assert "listed: Is a directory" in found.problem


def test_rows_are_written_although_nothing_can_be_read(labeller, run, tmp_path):
    path = tmp_path / "a.jsonl"
    status, out, err = run("classify", tmp_path / "*.gif", "-o", path, "--json")
    (row,) = map(json.loads, path.read_text().splitlines())
    assert (status, row["source"], row["digest"]) == (2, str(tmp_path / "*.gif"), MODEL.digest)
    assert "1 in = 0 answered + 1 refused" in err
    assert json.loads(out)["refused"] == 1


def test_an_output_that_exists_claims_nothing(labeller, run, tmp_path):
    path = tmp_path / "a.jsonl"
    assert run("classify", "1.png", "-o", path)[0] == 0
    status, out, err = run("classify", "other.png", "-o", path, "--resume", "--json")
    answer = json.loads(out)
    assert (status, answer["already_complete"], answer["images"]) == (0, True, None)
    assert "not compared" in err
    assert labeller.asked == ["1.png"]


def test_no_more_classes_than_the_model_has(labeller, run, tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    labeller.classes = 3
    assert run("classify", "1.png", "-o", path, "--top-k", "1000")[0] == 0
    for text in (path.read_text(), run("classify", "1.png", "--format", "csv", "--top-k", "9")[1]):
        header, row = csv.reader(text.splitlines())
        assert len(header) == len(row) == 1 + 3 * 3 + 4


def test_an_output_that_is_a_link_is_written_through(labeller, run, tmp_path):
    path, link = tmp_path / "a.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(path)
    assert run("classify", "1.png", "-o", link)[0] == 0
    assert run("classify", "2.png", "-o", link, "--overwrite")[0] == 0
    assert link.is_symlink()
    assert json.loads(path.read_text())["source"] == "2.png"


def test_the_output_is_no_image(labeller, run, tmp_path):
    pytest.importorskip("pyarrow")
    link, path = tmp_path / "photos" / "link.parquet", tmp_path / "photos" / "a.parquet"
    for file in (path, tmp_path / "photos" / "1.png"):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    link.symlink_to(path)
    assert run("classify", tmp_path / "photos", "-o", link, "--overwrite")[0] == 0
    assert labeller.asked == [str(tmp_path / "photos" / "1.png")]


@pytest.mark.parametrize(
    "options",
    [
        ("--in-process", "net", "--url", "localhost:8001"),
        ("--in-process", "net", "--model", "net"),
        ("--in-process", "net", "--timeout", "30"),
        ("--in-process", "net", "--decode", "server"),
        ("--workers", "2"),
        ("--ray-address", "auto"),
        ("--resume",),
        ("--overwrite",),
        ("--format", "parquet"),
        ("--output", "a.txt"),
        ("--engine", "ray"),
        ("--output", "a.jsonl", "--resume", "--overwrite"),
    ],
)
def test_options_without_effect_are_refused(error, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert type(error("classify", "1.png", *options)) is UsageError


def test_names_that_are_not_utf8_are_the_same_in_all_json(labeller, run, tmp_path):
    path = tmp_path / "a.jsonl"
    run("classify", "caf\udce9.png", "-o", path)
    (printed,) = json.loads(run("classify", "caf\udce9.png", "--json")[1])
    written = json.loads(path.read_text())
    assert printed["source"] == r"caf\xe9.png"
    assert printed.items() <= written.items()
    assert printed["source_base64"] == "Y2Fm6S5wbmc="


@pytest.mark.parametrize("where", ["closed pipe", "full disk"])
def test_messages_that_cannot_be_written_do_not_stop_the_work(where):
    if where == "full disk":
        write = os.open("/dev/full", os.O_WRONLY)
    else:
        read, write = os.pipe()
        os.close(read)
    program = (
        "from delugeserve.cli.render.console import err_console, print_error\n"
        "print_error('One.', 'Two.')\nprint_error('Three.', 'Four.')\nprint('done')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=write, text=True
    )
    os.close(write)
    assert (done.returncode, done.stdout) == (0, "done\n")
