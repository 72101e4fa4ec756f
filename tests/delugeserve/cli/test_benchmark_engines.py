"""``delugeserve benchmark-engines``: a row for every engine, whatever becomes of it."""

import csv
import json

import pytest

from delugeserve.cli.commands.benchmark_engines import _choose
from delugeserve.errors import MissingExtraError
from delugeserve.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from delugeserve.runtimes.openvino import OpenVino
from delugeserve.zoo import find_model
from delugeserve_export import comparison

ENGINES = "onnxruntime:fp32,openvino:fp32"


def test_figures_of_every_kind(run, tmp_path, tiny_cifar):
    files = {"--csv": tmp_path / "engines.csv", "--plot": tmp_path / "engines.png"}
    options = [part for pair in files.items() for part in pair]
    status, out, err = run(
        "benchmark-engines", "--engines", ENGINES, "--batch-size", "1,4", "--data", tiny_cifar,
        "--json", *options,
    )  # fmt: skip
    assert status == 0, err
    rows = json.loads(out)["engines"]
    assert {row["backend"] for row in rows} == {"onnxruntime", "openvino"}
    rates = [row["images_per_s"] for row in rows]
    assert rates == sorted(rates, reverse=True), "the fastest first"
    (baseline,) = (row for row in rows if row["backend"] == "onnxruntime")
    assert baseline["speedup"] == 1
    for row in rows:
        assert row["speedup"] == pytest.approx(
            row["images_per_s"] / baseline["images_per_s"], abs=1e-4
        )
    assert str(files["--csv"]) in err
    assert str(files["--plot"]) in err
    assert len({row["top1_error"] for row in rows}) == 1, "in fp32 all err alike"
    for row in rows:
        assert row["status"] == "passed"
        assert row["top1_agreement"] == 1
        assert 1.9 < row["megabytes"] < 3
        assert set(row["milliseconds"]) == {"1", "4"}
        rates = [int(size) * 1000 / ms for size, ms in row["milliseconds"].items()]
        assert row["images_per_s"] == max(rates)
    assert files["--plot"].read_bytes()[:4] == b"\x89PNG"
    with files["--csv"].open() as file:
        written = list(csv.DictReader(file))
    assert [float(row["ms_batch_4"]) for row in written] == [
        row["milliseconds"]["4"] for row in rows
    ]


def test_the_environment_names_the_data_of_cifar10_only(run, monkeypatch, tiny_cifar, tmp_path):
    monkeypatch.setenv("DELUGESERVE_DATA", str(tiny_cifar))
    options = ("--engines", "onnxruntime:fp32", "--batch-size", "4", "--json")
    trained = load_checkpoint(find_model("delugenet38").weights)
    names = [f"dog {number}" for number in range(10)]
    save_checkpoint(
        Checkpoint(trained.spec.with_classes(names), trained.state), tmp_path / "dogs.safetensors"
    )
    for more, measured in (((), True), (("--checkpoint", tmp_path / "dogs.safetensors"), False)):
        status, out, err = run("benchmark-engines", *options, *more)
        assert status == 0, err
        (row,) = json.loads(out)["engines"]
        assert (row["top1_error"] is not None) is measured
    status, _, err = run(
        "benchmark-engines",
        *options,
        "--checkpoint",
        tmp_path / "dogs.safetensors",
        "--data",
        tiny_cifar,
    )
    assert status == 2
    assert "'dog 0'" in err


def test_one_that_fails_does_not_stop_the_others(run, monkeypatch):
    def missing(*_arguments):
        raise MissingExtraError("openvino", "export")

    monkeypatch.setattr(OpenVino, "build", missing)
    engines = "openvino:fp32,openvino:bf16,onnxruntime:fp32"
    status, out, err = run("benchmark-engines", "--engines", engines, "--batch-size", "1")
    assert status == 0
    lines = [line for line in out.splitlines() if " fp32" in line or " bf16" in line]
    assert lines[1].startswith("onnxruntime fp32"), "what was timed comes first"
    assert "passed" in lines[1]
    assert err.count("pip install 'delugeserve[export]'") == 1, "one reason, one line"
    assert "openvino fp32, openvino bf16 not installed" in err


def test_the_table_shows_errors_as_every_other_command_does(run, tiny_cifar):
    status, out, _ = run(
        "benchmark-engines", "--engines", "onnxruntime:fp32", "--batch-size", "1",
        "--data", tiny_cifar, "--limit", "20",
    )  # fmt: skip
    assert status == 0
    assert "top-1 error" in out
    (row,) = (line for line in out.splitlines() if line.startswith("onnxruntime fp32"))
    assert " % " in row
    assert "1.00x" in row


@pytest.mark.parametrize("when", ["built", "loaded", "timed"])
def test_what_a_runtime_raises_is_the_reason_in_its_row(run, monkeypatch, when):
    def refuse(*_arguments, **_options):
        raise RuntimeError("Check failed at src/somewhere.cpp:\nno such kernel")

    if when == "built":
        monkeypatch.setattr(OpenVino, "build", refuse)
    elif when == "loaded":
        monkeypatch.setattr(OpenVino, "load", refuse)
    else:
        honest = comparison.load_version

        def load_version(folder):
            manifest, infer = honest(folder)
            return manifest, refuse if manifest.backend == "openvino" else infer

        monkeypatch.setattr(comparison, "load_version", load_version)
    status, out, err = run("benchmark-engines", "--engines", ENGINES, "--batch-size", "1", "--json")
    assert status == 0, err
    passed, failed = json.loads(out)["engines"]  # what was timed comes first
    assert passed["status"] == "passed"
    assert set(passed["milliseconds"]) == {"1"}
    assert (failed["status"], failed["reason"]) == ("failed", "no such kernel")
    assert failed["milliseconds"] == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--engines", "openvino:bf61"), "openvino:bf16"),
        (("--engines", "tensorrt-rtx:fp61"), "tensorrt-rtx:fp16"),
        (("--csv", "nowhere/engines.csv"), "nowhere"),
        (("--batch-size", "1,x"), "--batch-size"),
        (("--batch-size", "0"), "--batch-size"),
        (("--plot", "engines.pdf"), ".svg"),
        (("--model", "delugenet83"), "delugenet38"),
    ],
)
def test_bad_input_is_one_sentence(run, arguments, message):
    status, out, err = run("benchmark-engines", *arguments)
    assert (status, out) == (2, "")
    assert message in " ".join(err.split())


@pytest.mark.parametrize("name", ["tensorrt-rtx:fp16", "tensorrt_rtx:fp16"])
def test_an_engine_is_named_as_export_names_it_or_as_triton_does(name):
    assert _choose(name, comparison.every_engine()) == [("tensorrt_rtx", "fp16")]


def test_every_engine_is_every_backend_in_each_of_its_precisions():
    assert ("openvino", "bf16") in comparison.every_engine()
    assert ("onnxruntime", "fp32") in comparison.every_engine()
