"""``classify``, the examples and the commands of docs/clients.md with a server."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from delugeserve.serving.supervisor import serve

pytest.importorskip("onnxruntime", reason="the backends need the extra 'server'")
if shutil.which("tritonserver") is None:
    pytest.importorskip("pytriton.constants", reason="there is no tritonserver (nvidia-pytriton)")

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "clients.md"


@pytest.fixture(scope="module")
def server(tmp_path_factory, write_colour_model):
    """One model, so that no command has to name it."""
    repository = tmp_path_factory.mktemp("repository")
    write_colour_model(repository / "delugenet38")
    with serve(repository, grpc_port=0, http_port=0, metrics_port=None, direct=True) as running:
        yield running


def python(*arguments, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | environment,
    )


def delugeserve(*arguments, **environment):
    return python("-m", "delugeserve", *arguments, **environment)


def test_classify(server, photos):
    run = delugeserve("classify", photos, photos / "missing.png", "--url", server.grpc_url)
    assert run.returncode == 2
    assert "green: grass" in run.stdout
    rows = [line for line in run.stdout.splitlines() if str(photos) in line]
    assert len(rows) == 4  # one line per image, also where it cannot be read
    assert ["not read" in row for row in rows] == [False, False, True, True]
    assert str(photos / "a red.png") in rows[0]
    assert re.search(r"red +8\d\.\d%", rows[0])
    assert "1 .txt" in run.stderr
    errors = [line for line in run.stderr.splitlines() if "error:" in line]
    assert len(errors) == 2
    assert str(photos / "broken.jpg") in errors[0]
    assert str(photos / "missing.png") in errors[1]
    assert "Traceback" not in run.stderr


def test_classify_prints_no_control_characters(server, tmp_path):
    name = "ev\x1b[2Jil\n.png"
    Image.new("RGB", (9, 9), "red").save(tmp_path / name)
    Image.new("RGB", (9, 9), "red").save(os.fsencode(tmp_path) + b"/caf\xe9.png", "PNG")
    for encoding in ("ascii", "utf-8"):
        run = delugeserve("classify", tmp_path, "--url", server.grpc_url, PYTHONIOENCODING=encoding)
        assert run.returncode == 0, run.stderr
        assert "\x1b" not in run.stdout
        assert "ev\\x1b[2Jil\\n.png" in run.stdout
        assert "caf\\xe9.png" in run.stdout
    run = delugeserve("classify", tmp_path, "--url", server.grpc_url, "--json")
    latin, evil = json.loads(run.stdout)
    assert latin["source"].endswith("caf\\xe9.png")
    assert base64.b64decode(latin["source_base64"]).endswith(b"/caf\xe9.png")
    assert Path(evil["source"]).name == name


def test_classify_json(server, photos):
    options = ("--model", "delugenet38", "--url", f"http://{server.http_url}", "--json")
    run = delugeserve("classify", photos / "below", photos / "a red.png", *options, "--top-k", 1)
    assert (run.returncode, run.stderr.count("\n")) == (0, 1)
    assert "2 in = 2 answered + 0 refused" in run.stderr
    blue, red = json.loads(run.stdout)
    assert blue.keys() == {"source", "predictions"}
    assert blue["source"] == str(photos / "below" / "blue.JPG")
    assert [prediction["label"] for prediction in blue["predictions"]] == ["blue"]
    assert red["predictions"][0].keys() == {"label", "index", "probability"}
    assert red["predictions"][0]["index"] == 0


def test_one_bad_argument_does_not_stop_the_others(server, photos):
    (photos / "empty").mkdir()
    url = "http://127.0.0.1:9/cat.jpg"
    images = (photos / "missing.png", photos / "empty", url, photos / "a red.png")
    run = delugeserve("classify", *images, "--url", server.grpc_url, "--json")
    assert run.returncode == 2
    results = json.loads(run.stdout)
    assert [result["source"] for result in results] == [str(image) for image in images]
    assert ["error" in result for result in results] == [True, True, True, False]
    assert url in results[2]["error"]
    assert "cannot be downloaded" in results[2]["error"]
    assert results[3]["predictions"][0]["label"] == "red"


@pytest.mark.parametrize(
    ("example", "subject", "says"),
    [
        ("classify_folder.py", "", r"a red\.png\tred\t0\.\d{3}\n"),
        ("several_servers.py", "a red.png", r"a red\.png\tred\n"),
        ("async_requests.py", "a red.png", r"20 requests in \d+\.\d\d s: red\n"),
        ("latency_tritonclient.py", None, r"p50: .* ms\np90: .* ms\np95: .* ms\np99: .* ms\n"),
    ],
)
def test_examples(server, photos, example, subject, says):
    few = [] if example in ("classify_folder.py", "several_servers.py") else ["--requests", "20"]
    arguments = [] if subject is None else [str(photos / subject)]
    options = ("--model", "delugenet38", "--url", server.grpc_url, *few)
    done = python(ROOT / "clients" / "examples" / example, *arguments, *options)
    assert done.returncode == 0, done.stderr
    assert re.search(says, done.stdout)


@pytest.fixture
def desk(tmp_path, photos):
    """A folder in which the page's file names exist."""
    (photos / "broken.jpg").unlink()
    for name in ("cat.jpg", "ship.png"):
        Image.new("RGB", (40, 40), "red").save(tmp_path / name)
    return tmp_path


def test_every_command_of_the_page_runs(server, desk, console_commands):
    commands = [words for words in console_commands(PAGE) if words[0] != "pip"]
    seen = {words[1] for words in commands}
    assert {"classify", "clients/examples/classify_folder.py"} <= seen
    for program, *arguments in commands:
        if arguments[0] in ("export", "serve"):  # tests of their own
            continue
        addresses = {"http://localhost:8000": f"http://{server.http_url}"}
        words = [addresses.get(word, word) for word in arguments]
        if "--url" not in words:
            words += ["--url", server.grpc_url]
        if program == "delugeserve":
            words = ["-m", "delugeserve", *words]
        else:
            words[0] = ROOT / words[0]
        done = python(*words, cwd=desk)
        assert done.returncode == 0, (arguments, done.stderr)
