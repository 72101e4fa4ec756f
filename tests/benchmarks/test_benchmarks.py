"""The benchmarks run from end to end; what they measure is not for a test to judge."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the benchmarks need the extra 'export'")
pytest.importorskip("onnx", reason="the benchmarks need the extra 'export'")
pytest.importorskip("onnxruntime", reason="the benchmarks need the extra 'export'")
pytest.importorskip("openvino", reason="the benchmarks need the extra 'export'")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run_quickly(
    script: str, folder: Path, model: str | None = "delugenet38", options: Sequence[str] = ()
) -> tuple[str, dict]:
    """What a benchmark printed, and what it wrote."""
    report = folder / "report.json"
    command = [sys.executable, BENCHMARKS / script, "--quick", *options]
    command += ["--models", model] if model else []
    done = subprocess.run(
        [*command, "--json", report],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(report.read_text())
    assert written["quick"]
    assert written["machine"] in done.stdout
    for result in written["results"]:
        assert result.get("model") == model
        assert {len(figures) for figures in result["samples"].values()} == {1}
        assert all(figure > 0 for figures in result["samples"].values() for figure in figures)
    return done.stdout, written


def test_runtimes(tmp_path):
    printed, written = run_quickly("runtimes.py", tmp_path)
    assert [result["batch"] for result in written["results"]] == [1, 8, 32]
    assert "OpenVINO bf16, batchnorm" in printed


def test_precisions(tmp_path):
    pytest.importorskip("onnxscript", reason="PyTorch's exporter needs onnxscript")
    printed, written = run_quickly("precisions.py", tmp_path)
    (result,) = written["results"]
    assert len(result["samples"]) == 7
    assert "OpenVINO int8: convolutions 39 in int8" in printed


def test_export_time(tmp_path):
    pytest.importorskip("onnxscript", reason="PyTorch's exporter needs onnxscript")
    printed, written = run_quickly("export_time.py", tmp_path)
    (result,) = written["results"]
    assert len(result["samples"]) == 4
    assert "verify" in result["stages"][0]
    assert "torch.onnx.export(dynamo=True)" in printed


def test_image_decoding(tmp_path):
    pytest.importorskip("skimage", reason="the photographs need the extra 'demo'")
    printed, written = run_quickly("image_decoding.py", tmp_path, model=None)
    (result,) = written["results"]
    assert list(result["samples"]) == ["plain Pillow", "test images", "training images"]
    assert "images/s, one core" in printed


@pytest.mark.system
def test_serving_throughput(tmp_path):
    if shutil.which("tritonserver") is None:
        pytest.importorskip("pytriton.constants", reason="there is no tritonserver")
    _, written = run_quickly("serving_throughput.py", tmp_path)
    (result,) = written["results"]
    assert result["best"] in result["samples"]
    loads = result["loads"]["server, batch 1, 32 in flight"]
    assert loads["executed"][0] > 1, "single images were not put together into batches"


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's /proc")
def test_freed_memory(tmp_path):
    printed, written = run_quickly("freed_memory.py", tmp_path)
    assert [result["phase"] for result in written["results"]] == ["training", "inference"]
    assert all(set(result["samples"]) == {"kept", "returned"} for result in written["results"])
    assert "peak MB" in printed


def test_the_gpu_benchmark_measures_the_sums_on_a_processor(tmp_path):
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("the fused sums need a C++ compiler")
    printed, written = run_quickly(
        "gpu.py", tmp_path, model=None, options=["--device", "cpu", "--seconds", "0.02"]
    )
    assert printed.count("skipped, as") == 2, "the two parts that need a GPU"
    names = {result["direction"]: list(result["samples"]) for result in written["results"]}
    assert names == {
        "forward": ["copy", "plain", "compiled"],
        "backward": ["copy", "autograd", "plain", "compiled"],
    }
    assert [result.get("L", result.get("R")) for result in written["results"]] == [2, 9, 1, 8]


@pytest.mark.system
def test_front_cost(tmp_path):
    pytest.importorskip("pytriton.constants", reason="there is no tritonserver (nvidia-pytriton)")
    printed, written = run_quickly("front_cost.py", tmp_path)
    (result,) = written["results"]
    assert len(result["samples"]) == 8
    assert "through Envoy" in printed


def test_load_accuracy(tmp_path):
    pytest.importorskip("mlperf_loadgen", reason="load tests need the extra 'benchmark'")
    printed, written = run_quickly("load_accuracy.py", tmp_path, model=None)
    assert len(written["results"]) == 9
    assert "stall of 1 s; Server" in printed


@pytest.mark.system
def test_load_cost(tmp_path, exported):
    pytest.importorskip("hdrh", reason="load tests need the extra 'benchmark'")
    if shutil.which("tritonserver") is None:
        pytest.importorskip("pytriton.constants", reason="there is no tritonserver")
    options = ["--repository", str(exported)]
    _, written = run_quickly("load_cost.py", tmp_path, model="tiny", options=options)
    assert [result["load"] for result in written["results"]] == [[1, 32], [1, 1], [8, 2]]


@pytest.mark.system
def test_client_cost(tmp_path):
    if shutil.which("tritonserver") is None:
        pytest.importorskip("pytriton.constants", reason="there is no tritonserver")
    printed, written = run_quickly("client_cost.py", tmp_path)
    assert [(result["kind"], result["batch"]) for result in written["results"]] == [
        ("threads", 1),
        ("asyncio", 1),
        ("threads", 32),
        ("asyncio", 32),
    ]
    assert "this client" in printed
