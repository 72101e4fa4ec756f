"""An exported version in this process, alone and in the workers of a local Ray."""

import json
import shutil
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stub_labeller import MODEL

from delugeserve.bulk.chunks import first_change, read_chunk, write_chunks
from delugeserve.bulk.engines import InProcess
from delugeserve.bulk.engines.in_process import InProcessLabeller
from delugeserve.bulk.engines.ray_cluster import _join
from delugeserve.bulk.items import Item, Shard
from delugeserve.bulk.job import Counts
from delugeserve.bulk.journal import Request, folder_of
from delugeserve.bulk.output_file import open_output
from delugeserve.bulk.sources import find_items
from delugeserve.errors import Failure
from delugeserve.system.progress import NO_PROGRESS
from delugeserve_client import ImageError

pytest.importorskip("torch", reason="exporting needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="exporting needs the extra 'export'")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """2,100 images, three of them damaged: three chunks of a cluster."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(2100):
        path = folder / f"{number % 10}" / f"{number:04d}.png"
        path.parent.mkdir(exist_ok=True)
        if number % 700 == 5:
            path.write_bytes(b"This is text.")
        else:
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).resize((32, 32)).save(path)
    return folder


def classify(*arguments, **more):
    command = [sys.executable, "-m", "delugeserve", "classify", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
    )


def finish(process):
    printed, talk = process.communicate()
    return process.returncode, printed, talk


def test_it_labels_like_its_runtime(exported, images):
    folder = exported / "tiny" / "1"
    labeller = InProcessLabeller(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert labeller.model.name == "tiny"
    assert labeller.model.version == "1"
    assert manifest["files"][manifest["artefact"]]["sha256"].startswith(labeller.model.digest)
    path = images / "0" / "0010.png"
    error = ImageError("gone.", "Look.", source="gone")
    items = [Item("a", str(path)), Item("gone", error=error), Item("b", path.read_bytes())]
    items.append(Item("c", str(images / "5" / "0005.png")))
    first, gone, second, bad = labeller.label(items, 3)
    labeller.close()
    assert labeller.classes == 10
    small = InProcessLabeller(folder, max_pixels=1000)
    (refused,) = small.label(items[:1], 3)
    small.close()
    assert "1,024 pixels" in refused.error.problem
    assert first.predictions == second.predictions
    assert len(first.predictions) == 3
    assert first.top.probability == max(p.probability for p in first.predictions)
    assert gone.error is error
    assert bad.source == "c"
    assert "not an image" in bad.error.problem


def test_a_version_is_found_again(exported, tmp_path):
    model = tmp_path / "tiny"
    shutil.copytree(exported / "tiny", model)
    shutil.copytree(model / "1", model / "2")
    served = InProcess.find(str(model)).folder.name
    other = {"1": "2", "2": "1"}[served]
    assert InProcess.find(str(model), other) == InProcess(model / other)
    assert InProcess.find(str(model), "9").folder.name == served  # it is gone
    assert InProcess.find(str(model / served), other).folder.name == served  # it was asked for


def test_the_list_for_a_cluster(tmp_path):
    error = ImageError("It is gone.", "Look.", source="gone")
    shard = Shard("s.tar", "5 bytes", True)
    items = [Item(f"{n}.png", f"{n}.png") for n in range(7)]
    items[3:3] = [Item("s.tar", shard=shard), Item("gone", error=error)]
    items.append(Item("caf\udce9.png", "caf\udce9.png"))
    items += [Item("/a.png", "/a.png"), Item("http://host/b.png", "http://host/b.png")]
    chunks = write_chunks(iter(items), tmp_path, small=2)
    sizes = [len(list(read_chunk(tmp_path, chunk))) for chunk in range(chunks)]
    assert sizes == [2, 1, 1, 2, 2, 2, 2]
    found = [item for chunk in range(chunks) for item in read_chunk(tmp_path, chunk)]
    assert [item.source for item in found] == [item.source for item in items]
    # Workers run in other folders.
    assert found[0].content == str(Path("0.png").absolute())
    assert [item.content for item in found[-2:]] == ["/a.png", "http://host/b.png"]
    assert found[3].shard == replace(shard, path=str(Path("s.tar").absolute()))
    assert found[3].is_shard
    assert str(found[4].error) == "It is gone. Look."
    assert first_change(items, tmp_path, chunks) is None
    assert first_change(items[:-1], tmp_path, chunks) == ("http://host/b.png", "")
    assert first_change([*items, Item("new.png")], tmp_path, chunks) == ("", "new.png")
    assert first_change(items[1:], tmp_path, chunks) == ("0.png", "1.png")
    items[3] = Item("s.tar", shard=Shard("s.tar", "6 bytes", True))
    assert first_change(items, tmp_path, chunks) == ("s.tar", "s.tar")


def test_rows_of_a_cluster_that_are_missing_are_a_failure(tmp_path):
    pytest.importorskip("pyarrow.parquet")
    request = Request((), "jsonl", 1, None, None, "client", "ray", MODEL)
    with open_output(tmp_path / "a.jsonl", "jsonl") as output, pytest.raises(Failure) as caught:
        _join(output, request, 2, set(), Counts(), NO_PROGRESS)
    assert "chunk 0" in caught.value.problem
    assert not list(tmp_path.glob("a.jsonl*"))


@pytest.fixture
def cluster(tmp_path_factory, monkeypatch):
    """The address of a Ray cluster, whose workers run in a folder of their own."""
    pytest.importorskip("ray.data", reason="needs the extra 'ray'")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    program = (
        "import ray\n"
        "started = ray.init('local', num_cpus=5, include_dashboard=False, log_to_driver=False)\n"
        "print('address', started.address_info['gcs_address'], flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=tmp_path_factory.mktemp("elsewhere"),
    ) as process:
        try:
            lines = iter(process.stdout.readline, "")
            yield next(line.split()[1] for line in lines if line.startswith("address"))
        finally:
            process.communicate("\n")


@pytest.mark.slow
def test_ray_ends_with_the_same_bytes_after_a_kill(
    exported, images, cluster, tmp_path, monkeypatch
):
    monkeypatch.chdir(images.parent)  # with relative names
    whole, path = tmp_path / "whole.parquet", tmp_path / "ray.parquet"
    with (
        closing(InProcessLabeller(exported / "tiny" / "1")) as labeller,
        open_output(whole, "parquet") as output,
    ):
        request = Request((), "parquet", 2, None, None, "client", "local", labeller.model)
        output.label(request, find_items([images.name]), labeller, Counts())
    ray = (images.name, "--in-process", exported / "tiny", "--top-k", "2", "-o", path, "--resume")
    ray += ("--engine", "ray", "--ray-address", cluster, "--workers", "2")
    process = classify(*ray, start_new_session=True)
    checkpoints = folder_of(path) / "checkpoint"
    while process.poll() is None and not list(checkpoints.glob("*.parquet")):
        time.sleep(0.05)
    process.kill()
    process.communicate()
    done = [path for path in checkpoints.glob("*.parquet") if ".pending." not in path.name]
    status, _, talk = finish(classify(*ray))
    assert status == 2, talk
    assert "2,100 in = 2,097 answered + 3 refused" in talk
    assert not done or "by earlier runs" in talk
    assert "Traceback" not in talk
    assert path.read_bytes() == whole.read_bytes()
    assert not folder_of(path).exists()


@pytest.mark.slow
def test_a_worker_that_fails_is_one_message(exported, images, tmp_path):
    pytest.importorskip("ray.data", reason="needs the extra 'ray'")
    repository = tmp_path / "repository"
    shutil.copytree(exported, repository)
    program = """
import sys
from delugeserve.bulk.engines import in_process
from delugeserve.bulk.labelling import ModelIdentity
from delugeserve.cli import main
# The driver believes in another model than its workers load.
in_process.InProcessLabeller.model = property(lambda self: ModelIdentity("tiny", "2", None))
main()
"""
    arguments = ["classify", images / "1", "--in-process", repository / "tiny"]
    arguments += ["-o", tmp_path / "a.jsonl", "--engine", "ray", "--workers", "1"]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "'tiny' version 1" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("a.jsonl*"))
