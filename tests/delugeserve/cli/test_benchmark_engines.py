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
    assert [row["backend"] for row in rows] == ["onnxruntime", "openvino"]
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
    save_checkpoint(Checkpoint(trained.spec, tuple(names), trained.state), tmp_path / "dogs.st")
    for more, measured in (((), True), (("--checkpoint", tmp_path / "dogs.st"), False)):
        status, out, err = run("benchmark-engines", *options, *more)
        assert status == 0, err
        (row,) = json.loads(out)["engines"]
        assert (row["top1_error"] is not None) is measured
    status, _, err = run(
        "benchmark-engines", *options, "--checkpoint", tmp_path / "dogs.st", "--data", tiny_cifar
    )
    assert status == 2
    assert "'dog 0'" in err


def test_one_that_fails_does_not_stop_the_others(run, monkeypatch):
    def missing(*_arguments):
        raise MissingExtraError("openvino", "export")

    monkeypatch.setattr(OpenVino, "build", missing)
    status, out, _ = run("benchmark-engines", "--engines", ENGINES, "--batch-size", "1")
    assert status == 0
    lines = {line.split()[0]: line for line in out.splitlines() if " fp32" in line}
    assert "passed" in lines["onnxruntime"]
    assert "pip install 'delugeserve[export]'" in out


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
    passed, failed = json.loads(out)["engines"]
    assert passed["status"] == "passed"
    assert set(passed["milliseconds"]) == {"1"}
    assert (failed["status"], failed["reason"]) == ("failed", "no such kernel")
    assert failed["milliseconds"] == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--engines", "openvino:bf61"), "Did you mean 'openvino:bf16'"),
        (("--engines", "tensorrt-rtx:fp61"), "Did you mean 'tensorrt-rtx:fp16'"),
        (("--csv", "nowhere/engines.csv"), "There is no folder nowhere"),
        (("--batch-size", "1,x"), "not a list of whole numbers"),
        (("--batch-size", "0"), "not a list of whole numbers"),
        (("--plot", "engines.pdf"), "Let it end in .png or .svg"),
        (("--model", "delugenet83"), "Did you mean"),
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
