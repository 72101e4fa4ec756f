"""``delugeserve benchmark`` and the commands of docs/benchmark.md with a server."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from delugeserve.load.waterfall import STEPS
from delugeserve.serving.supervisor import serve

pytest.importorskip("onnxruntime", reason="the backends need the extra 'server'")
pytest.importorskip("mlperf_loadgen", reason="load tests need the extra 'benchmark'")
if shutil.which("tritonserver") is None:
    pytest.importorskip("pytriton.constants", reason="there is no tritonserver (nvidia-pytriton)")

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmark.md"
SHORT = ("--duration", 0.2, "--warmup", 0.1)


@pytest.fixture(scope="module")
def server(tmp_path_factory, write_colour_model):
    repository = tmp_path_factory.mktemp("repository")
    write_colour_model(repository / "delugenet38")
    with serve(repository, grpc_port=0, http_port=0, metrics_port=None, direct=True) as running:
        yield running


def benchmark(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "delugeserve", "benchmark", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_a_closed_loop(server, tmp_path):
    files = {
        "--csv": tmp_path / "figures.csv",
        "--plot": tmp_path / "plot.png",
        "--html": tmp_path / "report.html",
    }
    options = [word for pair in files.items() for word in pair]
    sizes = ("--batch-size", "1,2", "--concurrency", "1:4:2")
    done = benchmark("--url", server.grpc_url, *SHORT, *sizes, *options)
    assert done.returncode == 0, done.stderr
    assert "p99.9 ms" in done.stdout
    assert "delugenet38" in done.stdout
    assert all(str(path) in done.stderr for path in files.values())
    with files["--csv"].open() as file:
        rows = list(csv.DictReader(file))
    pairs = [(row["Batch Size"], row["Concurrency"]) for row in rows]
    assert pairs == [("1", "1"), ("1", "3"), ("2", "1"), ("2", "3")]
    assert int(rows[0]["Server Compute Infer"]) > 0
    assert files["--plot"].read_bytes().startswith(b"\x89PNG")
    page = files["--html"].read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "http://" not in page  # no further files
    assert "https://" not in page


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_json_over_both_protocols(server, tmp_path, protocol):
    Image.new("RGB", (50, 50), "red").save(tmp_path / "image.png")
    url = server.grpc_url if protocol == "grpc" else f"http://{server.http_url}"
    options = ("--concurrency", 2, "--image", tmp_path / "image.png", "--json", "--repeats", 2)
    done = benchmark("--url", url, *SHORT, *options)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["machine"].keys() == {
        "cpu", "cores", "memory_gib", "platform", "python", "tritonclient", "triton"
    }  # fmt: skip
    first, second = (row["repeats"][0] for row in report["measurements"])
    assert (first["batch_size"], second["batch_size"]) == (1, 4)
    assert first["in_flight"] == 2
    assert first["checked"] == first["queries"]
    assert first["wrong"] == 0
    assert first["server"]["compute_infer_ms"] > 0
    assert report["measurements"][0]["images_per_s_half_width"] >= 0


def test_a_budget(server, tmp_path):
    options = ("--latency-budget", "100ms", "--precision", 1, "--output", tmp_path / "logs")
    done = benchmark("--url", server.grpc_url, *SHORT, *options, "--percentile", 80, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["rate"] > 0
    assert report["measurements"][0]["scenario"] == "single-stream"
    assert any(row["valid"] for row in report["measurements"][1:])
    summaries = list((tmp_path / "logs").glob("*/mlperf_log_summary.txt"))
    assert len(summaries) == len(report["measurements"])


def test_a_budget_that_nothing_keeps(server):
    done = benchmark("--url", server.grpc_url, *SHORT, "--latency-budget", "1us")
    assert done.returncode == 1
    assert "No rate keeps p99 <= 0.001 ms" in done.stderr
    assert "Use --latency-budget" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_waterfall(exported, tmp_path):
    page = tmp_path / "waterfall.html"
    options = ("--repository", exported, "--duration", 0.2, "--html", page, "--json")
    done = benchmark("--waterfall", *options)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["model"] == "tiny"
    assert [step["name"] for step in report["steps"]] == list(STEPS)
    assert report["steps"][1]["total_ms"] < report["steps"][3]["total_ms"]
    assert all(name in page.read_text() for name in STEPS)


def test_a_wrong_model_for_the_waterfall(exported):
    done = benchmark("--waterfall", "--repository", exported, "--model", "tinny")
    assert done.returncode == 2
    assert "tiny" in done.stderr


def test_every_command_of_the_page_runs(server, tmp_path, console_commands):
    for program, *arguments in console_commands(PAGE):
        elsewhere = {"--waterfall", "--latency-budget"} & set(arguments)
        if program != "delugeserve" or elsewhere or arguments == ["benchmark"]:
            continue
        words = [word.replace("1,16", "1,4").replace(":16:", ":6:") for word in arguments[1:]]
        done = benchmark(*words, "--url", server.grpc_url, *SHORT, cwd=tmp_path)
        assert done.returncode == 0, (arguments, done.stderr)
    assert (tmp_path / "report.html").exists()
