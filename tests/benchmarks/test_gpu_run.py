"""The conductor of the GPU run: time, failures, files; and the roofline's operations and bytes."""

import argparse
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the benchmarks need the extra 'export'")
pytest.importorskip("onnxruntime", reason="the benchmarks need the extra 'export'")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu_run(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_run

    return gpu_run


def test_training_gets_the_time_that_the_others_leave(gpu_run):
    seconds = gpu_run.plan(list(gpu_run.SECTIONS), 600)
    assert sum(seconds.values()) + len(seconds) * gpu_run.START == 600
    assert max(seconds, key=seconds.__getitem__) == "training"
    with pytest.raises(ValueError, match="too few"):
        gpu_run.plan(list(gpu_run.SECTIONS), 240)


def test_a_section_that_fails_keeps_its_results_and_says_why(gpu_run, monkeypatch, tmp_path):
    module = types.ModuleType("broken_section")

    def measure(job):
        job.add({"figure": 1}, "one figure")
        raise RuntimeError("out of luck\nand more")

    module.measure = measure
    monkeypatch.setitem(sys.modules, "broken_section", module)
    monkeypatch.setitem(gpu_run.SECTIONS, "sums", gpu_run.Section("broken_section", "measure", 1))
    chosen = argparse.Namespace(
        run_section="sums", output=tmp_path, device="cpu", seconds=1, smoke=True
    )
    assert gpu_run.in_this_process(chosen) == 1
    assert json.loads((tmp_path / "sums.json").read_text()) == [
        {"figure": 1},
        {"error": "out of luck"},
    ]


def test_a_section_out_of_time_is_stopped_and_the_rest_goes_on(gpu_run, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_run, "START", 0.0)
    (tmp_path / "sums.json").write_text('[{"figure": 1}]')
    chosen = argparse.Namespace(output=tmp_path, device="cpu", smoke=True)
    outcome = gpu_run.run_section("sums", chosen, 0.1)
    assert outcome["status"].startswith("stopped")
    assert outcome["results"] == [{"figure": 1}]


def test_a_large_file_is_split_into_parts_that_join_again(gpu_run, tmp_path):
    content = bytes(range(256)) * 10
    (tmp_path / "large.bin").write_bytes(content)
    (tmp_path / "small.bin").write_bytes(content[:100])
    gpu_run.split_large_files(tmp_path, 1000)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["large.bin.part0", "large.bin.part1", "large.bin.part2", "small.bin"]
    assert b"".join((tmp_path / name).read_bytes() for name in names[:3]) == content


def test_the_operations_of_the_roofline_are_those_of_the_network(gpu_run):
    from roofline import operations

    from delugeserve.networks.build import build_network
    from delugeserve.networks.flops import count
    from delugeserve.networks.inference import fold
    from delugeserve.zoo import find_model

    spec = find_model("delugenet38")
    found = operations(fold(build_network(spec, seed=0)), (3, *spec.input_shape))
    # The folded form also weights the only input of a block's first layer; a BatchNorm in training.
    sums = [op for op in found if op.kind == "WeightedSum"]
    single = sum(op.flops for op in sums if op.flops < op.numbers)
    assert sum(op.flops for op in found) - single == 3 * count(spec).flops
    conv = found[0]
    assert conv.kind == "Conv2d"
    assert conv.numbers == 3 * 32 * 32 * (3 + 16) + 9 * 3 * 16


@pytest.mark.slow
def test_every_section_runs_on_a_processor(tmp_path):
    options = ["--device", "cpu", "--smoke", "--sections", "sums,memory,inference"]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "gpu_run.py", "--output", tmp_path / "out", *options],
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(report["sections"]) == ["sums", "memory", "inference"]
    for name, section in report["sections"].items():
        assert section["status"] == "complete"
        assert name in done.stdout
    engines = {result.get("engine") for result in report["sections"]["inference"]["results"]}
    assert {"eager", "aot", "compiled"} <= engines
