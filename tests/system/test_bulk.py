"""``classify --output`` with a server: killed anywhere, it ends with the same bytes."""

from __future__ import annotations

import csv
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from delugeserve.bulk.journal import folder_of
from delugeserve.bulk.outputs import FILE_FORMATS
from delugeserve.serving.supervisor import serve

pytest.importorskip("onnxruntime", reason="the backends need the extra 'server'")
if shutil.which("tritonserver") is None:
    pytest.importorskip("pytriton.constants", reason="there is no tritonserver (nvidia-pytriton)")

COLOURS = ("red", "blue", "lime", "white", "orange", "navy")


def write_repository(folder, write_colour_model):
    write_colour_model(folder / "delugenet38")
    return folder


def start(repository, grpc_port=0):
    return serve(repository, grpc_port=grpc_port, http_port=0, metrics_port=None, direct=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory, write_colour_model):
    repository = write_repository(tmp_path_factory.mktemp("repository"), write_colour_model)
    with start(repository) as running:
        yield running


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """400 images, two of them damaged, and files that are none."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(400):
        path = folder / f"{number % 7}" / f"{number:03d}.png"
        path.parent.mkdir(exist_ok=True)
        if number in (17, 300):
            path.write_bytes(b"This is text.")
        else:
            Image.new("RGB", (12, 8 + number % 5), COLOURS[number % 6]).save(path)
    (folder / "notes.txt").touch()
    return folder


def command(*arguments):
    return [sys.executable, "-m", "delugeserve", "classify", *map(str, arguments)]


def run(*arguments, **more):
    return subprocess.run(command(*arguments), capture_output=True, text=True, **more)


def begin(*arguments):
    """Start the command where its pictures come slowly: it waits for standard input to go on."""
    return subprocess.Popen(
        command("-", *arguments), stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def feed(process, names):
    process.stdin.write("".join(f"{name}\n" for name in names))
    process.stdin.flush()


def wait_for_rows(path, count):
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        time.sleep(0.01)


def test_all_formats_say_the_same(server, pictures, tmp_path):
    pyarrow = pytest.importorskip("pyarrow.parquet")
    records = {}
    for form in FILE_FORMATS:
        path = tmp_path / f"labels.{form}"
        done = run(pictures, "--url", server.grpc_url, "--output", path, "--top-k", 2)
        assert done.returncode == 2, done.stderr
        assert "400 in = 398 answered + 2 refused" in done.stderr
        assert "1 .txt" in done.stderr
        assert done.stdout == ""
        assert not folder_of(path).exists()
    lines = (tmp_path / "labels.jsonl").read_text().splitlines()
    records["jsonl"] = [
        (row["source"], [p["label"] for p in row.get("predictions", ())], row.get("error"))
        for row in map(json.loads, lines)
    ]
    with (tmp_path / "labels.csv").open(newline="") as file:
        records["csv"] = [
            (
                row["source"],
                [label for label in (row["label"], row["label_2"]) if label],
                row["error"] or None,
            )
            for row in csv.DictReader(file)
        ]
    records["parquet"] = [
        (row["source"], [p["label"] for p in row["predictions"] or ()], row["error"])
        for row in pyarrow.read_table(tmp_path / "labels.parquet").to_pylist()
    ]
    assert records["jsonl"] == records["csv"] == records["parquet"]
    assert [source for source, *_ in records["csv"]] == sorted(
        source for source, *_ in records["csv"]
    )
    assert len([error for *_, error in records["csv"] if error]) == 2


def test_shards_and_standard_input(server, pictures, tmp_path):
    tarfile = pytest.importorskip("tarfile")
    shard = tmp_path / "shard.tar"
    with tarfile.open(shard, "w") as archive:
        for name in ("000.png", "007.png"):
            archive.add(pictures / "0" / name, name)
    listed = f"{shard}\0{pictures / '1' / '001.png'}\0"
    done = run("-", "--url", server.grpc_url, "--format", "jsonl", "--top-k", 1, input=listed)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["source"] for row in rows] == [
        f"{shard}:000.png",
        f"{shard}:007.png",
        str(pictures / "1" / "001.png"),
    ]
    assert rows[0]["version"] == "1"


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_sigkill_and_resume(server, pictures, tmp_path, form):
    whole, path = tmp_path / f"whole.{form}", tmp_path / f"a.{form}"
    assert run(pictures, "--url", server.grpc_url, "-o", whole).returncode == 2
    moments = random.Random(form)
    for _ in range(2):
        process = subprocess.Popen(
            command(pictures, "--url", server.grpc_url, "-o", path, "--resume"),
            stderr=subprocess.DEVNULL,
        )
        while not folder_of(path).exists() and process.poll() is None:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.wait()
    done = run(pictures, "--url", server.grpc_url, "-o", path, "--resume")
    assert done.returncode in (0, 2), done.stderr  # 0: it was complete already
    assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_where_it_can_go_on(server, pictures, tmp_path, number):
    path = tmp_path / "a.jsonl"
    names = sorted(pictures.glob("*/*.png"))
    with begin("--url", server.grpc_url, "-o", path) as process:
        feed(process, names[:300])
        wait_for_rows(path, 40)
        process.send_signal(number)
        _, talk = process.communicate()
    assert process.returncode == 128 + number
    assert "Traceback" not in talk
    assert "--resume" in talk
    rows = len(path.read_bytes().splitlines())
    listed = "".join(f"{name}\n" for name in names)
    done = run("-", "--url", server.grpc_url, "-o", path, "--resume", input=listed)
    assert "400 in = 398 answered + 2 refused" in done.stderr
    assert f"{rows} by earlier runs" in done.stderr


def test_the_server_is_killed_in_the_middle(pictures, tmp_path, write_colour_model):
    repository = write_repository(tmp_path / "repository", write_colour_model)
    path, whole = tmp_path / "a.jsonl", tmp_path / "whole.jsonl"
    names = sorted(pictures.glob("*/*.png"))
    listed = "".join(f"{name}\n" for name in names)
    with start(repository) as server:
        url = server.grpc_url
        assert run("-", "--url", url, "-o", whole, input=listed).returncode == 2
        options = ("--url", url, "-o", path, "--timeout", "1")
        with begin(*options) as process:
            feed(process, names[:300])
            wait_for_rows(path, 40)
            os.kill(server.session, signal.SIGKILL)
            _, talk = process.communicate("".join(f"{name}\n" for name in names[300:]))
    assert process.returncode == 1
    assert talk.count("error:") - talk.count(".png") <= 1
    assert "Traceback" not in talk
    answered = path.read_bytes()
    assert whole.read_bytes().startswith(answered)
    assert 40 <= len(answered.splitlines()) <= 300
    (again,) = (
        line.partition("list, with: ")[2] for line in talk.splitlines() if "list, with" in line
    )
    with start(repository, grpc_port=int(url.rpartition(":")[2])):
        words = shlex.split(again)
        assert words[0] == "delugeserve"
        done = subprocess.run(
            [sys.executable, "-m", *words], input=listed, capture_output=True, text=True
        )
    assert done.returncode == 2, done.stderr
    assert path.read_bytes() == whole.read_bytes()


def test_another_version_is_refused(pictures, tmp_path, write_colour_model):
    repository = write_repository(tmp_path / "repository", write_colour_model)
    path = tmp_path / "a.jsonl"
    with start(repository) as server, begin("--url", server.grpc_url, "-o", path) as process:
        feed(process, sorted(pictures.glob("*/*.png"))[:300])
        wait_for_rows(path, 40)
        process.terminate()
        process.communicate()
    before = path.read_bytes()
    shutil.copytree(repository / "delugenet38" / "1", repository / "delugenet38" / "2")
    listed = "".join(f"{name}\n" for name in sorted(pictures.glob("*/*.png")))
    with start(repository) as server:
        done = run("-", "--url", server.grpc_url, "-o", path, "--resume", input=listed)
    assert done.returncode == 2
    assert "begun with 'delugenet38' version 1" in done.stderr
    assert "'delugenet38' version 2 is served" in done.stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize("form", ["table", "json", "jsonl"])
def test_a_reader_that_leaves(server, pictures, form):
    process = subprocess.Popen(
        command(pictures, "--url", server.grpc_url, "--format", form),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.read(20)
    process.stdout.close()
    talk = process.stderr.read().decode()
    # With 2, all was written before: a pipe holds 64 kB.
    assert process.wait() in ((141,) if form == "json" else (141, 2))
    assert "Traceback" not in talk
    assert "BrokenPipe" not in talk


@pytest.mark.parametrize("form", ["table", "json", "jsonl"])
def test_a_full_disk_behind_standard_output(server, pictures, form):
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command(pictures / "1", "--url", server.grpc_url, "--format", form),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert "Standard output cannot be written: No space left on device." in done.stderr
    assert "Traceback" not in done.stderr


def test_threshold(server, pictures, tmp_path):
    path = tmp_path / "a.csv"
    done = run(
        pictures / "1", "--url", server.grpc_url, "-o", path, "--threshold", "0.99", "--json"
    )
    answer = json.loads(done.stdout)
    assert answer["answered"] == answer["below_threshold"] == answer["images"]
    assert "answered below 0.99" in done.stderr
