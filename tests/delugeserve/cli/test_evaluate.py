"""``delugeserve evaluate``: what it accepts, prints and refuses."""

import json
import re
import shutil
import socket

import onnx
import pytest
from onnx import TensorProto, helper

from delugeserve.artifacts.graphs import describe_network
from delugeserve.artifacts.references import Reference
from delugeserve.errors import InvalidReferenceError, RepositoryError, UsageError
from delugeserve.evaluation.subjects import open_subject
from delugeserve.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from delugeserve.zoo import CIFAR10, find_model
from delugeserve_client import ServerUnavailable
from delugeserve_client.errors import ClientError
from delugeserve_export import export, plan_export

SPEC = find_model("delugenet38")


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_tiny_cifar):
    return write_tiny_cifar(tmp_path_factory.mktemp("data") / "tiny-cifar")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Two versions of the shipped weights, of which config.pbtxt serves the second."""
    repository = tmp_path_factory.mktemp("evaluated") / "model_repository"
    for backend in ("openvino", "onnxruntime"):
        plan = plan_export(
            SPEC, repository=repository, max_batch_size=8, backend=backend, precision="fp32"
        )
        export(plan)
    return repository


@pytest.fixture
def evaluate(run, data):
    """What ``evaluate --json`` prints."""

    def evaluate(*arguments):
        status, out, err = run("evaluate", *arguments, "--data", data, "--json")
        assert status == 0, err
        return json.loads(out)

    return evaluate


@pytest.fixture
def refused(run, data):
    """The error that ``evaluate`` ends with; it is one that the user can fix."""

    def refused(*arguments):
        with pytest.raises((UsageError, ClientError)) as caught:
            run("--debug", "evaluate", *arguments, "--data", data)
        assert caught.value.exit_code == 2
        assert len(str(caught.value)) < 800
        return caught.value

    return refused


def test_the_shipped_weights(evaluate):
    result = evaluate("delugenet38")
    assert result["subject"] == "delugenet38.safetensors (PyTorch, fp32)"
    assert result["model"] == "delugenet38"
    assert result["num_images"] == 100
    assert len(result["test_fingerprint"]) == 64
    assert [one["name"] for one in result["classes"]] == list(CIFAR10.class_names)
    assert [sum(row) for row in result["confusion"]] == [10] * 10
    right = sum(result["confusion"][index][index] for index in range(10))
    assert result["top1_error"] == pytest.approx(100 - right)
    low, high = result["top1_interval"]
    assert 0 < low < result["top1_error"] < high < 100
    assert len(result["bins"]) == 15
    assert 0 < result["calibration_error"] < 100
    assert result["negative_log_likelihood"] > 0
    assert result["images_per_s"] > 0


def test_every_kind_of_subject_has_the_same_metrics(evaluate, repository):
    expected = evaluate("--model", "delugenet38")
    folder = repository / "delugenet38"
    for arguments, title in [
        ((SPEC.weights,), "delugenet38.safetensors (PyTorch, fp32)"),
        (("--checkpoint", SPEC.weights, "--model", "delugenet38"), "(PyTorch, fp32)"),
        ((folder / "1",), "delugenet38/1 (OpenVINO, fp32)"),
        (("--version", folder / "1"), "delugenet38/1 (OpenVINO, fp32)"),
        ((folder,), "delugenet38/2 (ONNX Runtime, fp32)"),
        ((folder / "2" / "model.onnx",), "model.onnx (ONNX Runtime, fp32)"),
    ]:
        result = evaluate(*arguments)
        assert title in result["subject"]
        assert result["confusion"] == expected["confusion"]
        for metric in ("calibration_error", "negative_log_likelihood"):
            assert result[metric] == pytest.approx(expected[metric], rel=1e-3)


def test_an_onnx_file_is_titled_by_the_type_of_its_weights(evaluate, repository, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(repository / "delugenet38/2/model.onnx")
    weights = {node.input[1] for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    for stored in model.graph.initializer:
        if stored.name in weights:
            name, values = stored.name, onnx.numpy_helper.to_array(stored)
            stored.CopyFrom(onnx.numpy_helper.from_array(values.astype("float16"), f"{name}_half"))
            cast = onnx.helper.make_node(
                "Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT
            )
            model.graph.node.insert(0, cast)
    onnx.save(model, tmp_path / "half.onnx")
    result = evaluate(tmp_path / "half.onnx", "--limit", "10")
    assert result["subject"] == "half.onnx (ONNX Runtime, fp16)"


def test_a_limit(evaluate):
    assert evaluate("delugenet38", "--limit", "30")["num_images"] == 30


def test_facts_and_a_table_are_printed(run, data, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = run("evaluate", "delugenet38", "--data", data)
    assert status == 0, err
    title, *facts = out[: out.index("\n\n")].splitlines()
    assert title == "delugenet38.safetensors (PyTorch, fp32) on 100 test images"
    assert [fact.partition("  ")[0] for fact in facts] == [
        "top-1 error",
        "top-5 error",
        "calibration error",
        "negative log-likelihood",
        "speed",
    ]
    assert re.search(r" [\d.]+ % \(95 % interval [\d.]+ to [\d.]+\)$", facts[0])
    table = out[out.index("\n\n") :].strip().splitlines()
    errors = [float(row.split()[-1]) for row in table[2:]]
    assert len(errors) == 10
    assert errors == sorted(errors, reverse=True), "the worst first"
    assert "worst" not in err


def test_of_many_classes_the_worst_are_printed(capsys, monkeypatch):
    from delugeserve.cli.commands.evaluate import _print_report
    from delugeserve.evaluation.evaluate import ClassReport, Report

    classes = tuple(ClassReport(f"c{n}", 5, float(n), "c0", 1.0) for n in range(30))
    classes += (ClassReport("unseen", 0, None, None, None),)
    _print_report(Report(150, 20, 5, (15, 25), 3, 0.5, classes, (), ()), "a model", 1000)
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()[-10:]] == [
        f"c{n}" for n in range(29, 19, -1)
    ]
    assert "10 worst of 30 classes" in err


def test_pictures(run, data, tmp_path):
    confusion, reliability = tmp_path / "new" / "confusion.png", tmp_path / "reliability.svg"
    status, _, err = run(
        "evaluate", "delugenet38", "--data", data, "--limit", "20",
        "--confusion", confusion, "--reliability", reliability,
    )  # fmt: skip
    assert status == 0, err
    assert confusion.read_bytes().startswith(b"\x89PNG")
    assert "calibration error" in reliability.read_text()


def test_a_picture_of_another_type_is_refused_before_the_work(refused):
    assert "confusion.jpg" in refused("delugenet38", "--confusion", "confusion.jpg").problem


def test_flips_and_a_gallery(run, data, evaluate, tmp_path):
    path = tmp_path / "errors.html"
    arguments = ("delugenet38", "--limit", "20", "--tta", "flip", "--gallery", path)
    status, out, err = run("evaluate", *arguments, "--gallery-images", "3", "--data", data)
    assert status == 0, err
    assert "top-1 error, --tta flip" in out
    assert f"gallery of 3 mistakes written to {path}" in err
    assert path.read_text(encoding="utf-8").count("<figure>") == 3
    result = evaluate(*arguments)
    assert result["tta"]["augmentation"] == "flip"
    assert 0 <= result["tta"]["top1_error"] <= 100
    assert evaluate("delugenet38", "--limit", "20")["tta"] is None


def test_a_gallery_that_cannot_be_written_is_refused_before_the_work(refused):
    assert "errors.html" in refused("delugenet38", "--gallery", "errors.png").remedy
    assert "--gallery" in refused("delugenet38", "--gallery-images", "3").remedy


def test_an_error_is_one_line(run, data):
    status, out, err = run("evaluate", "delugnet38", "--data", data)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "Did you mean 'delugenet38'?" in err


def test_nothing_or_two_things(refused, tmp_path):
    assert "delugeserve evaluate delugenet38" in refused().remedy
    for two in (
        ("delugenet38", "--checkpoint", tmp_path / "x.safetensors"),
        ("--version", tmp_path, "--url", "localhost:8001"),
    ):
        assert "one" in refused(*two).remedy


def test_a_run_folder_and_a_name_as_checkpoint(evaluate, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copy(SPEC.weights, tmp_path / "run")
    (tmp_path / "run" / "last.ckpt").touch()
    for subject in ((tmp_path / "run",), ("--checkpoint", tmp_path / "run")):
        result = evaluate(*subject, "--limit", "10")
        assert result["subject"] == "delugenet38.safetensors (PyTorch, fp32)"
    assert evaluate("--checkpoint", "delugenet38", "--limit", "10")["model"] == "delugenet38"


def test_what_cannot_be_evaluated(refused, repository, tmp_path):
    assert isinstance(refused(tmp_path), InvalidReferenceError)
    assert refused(repository).found == "repository"
    copied = shutil.copytree(repository / "delugenet38", tmp_path / "delugenet38")
    shutil.rmtree(copied / "2")
    assert isinstance(refused(copied), RepositoryError)
    (copied / "1" / "model.xml").write_text("<net/>")
    assert "OpenVINO" in refused(copied / "1").problem
    (copied / "1" / "manifest.json").write_text("{}")
    assert isinstance(refused(copied / "1"), RepositoryError)
    (tmp_path / "bad.onnx").write_bytes(b"\xff\xff no model")
    assert str(tmp_path / "bad.onnx") in refused(tmp_path / "bad.onnx").problem


def write_onnx(path, shape, metadata):
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("data", "prob")
    ]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["data"], ["prob"])], "foreign", tensors[:1], tensors[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)


def test_an_onnx_file_of_others(refused, tmp_path):
    path = tmp_path / "resnet.onnx"
    write_onnx(path, ["batch", 3, 224, 224], {})
    error = refused(path)
    assert "'data' float [N, 3, 224, 224]" in error.problem
    assert "--model" in error.remedy
    problem = refused(path, "--model", "delugenet92").problem
    assert "'prob' float [N, 3, 224, 224]" in problem
    assert "'image' uint8 [N, 224, 224, 3]" in problem
    write_onnx(path, ["batch", 3], describe_network(SPEC, trained=True))
    assert "'image' uint8 [N, 32, 32, 3]" in refused(path).problem


def test_an_onnx_file_without_metadata_needs_the_model(evaluate, refused, repository, tmp_path):
    model = onnx.load(repository / "delugenet38" / "2" / "model.onnx")
    helper.set_model_props(model, {})
    onnx.save(model, tmp_path / "bare.onnx")
    assert "--model" in refused(tmp_path / "bare.onnx").remedy
    assert evaluate(tmp_path / "bare.onnx", "--model", "delugenet38")["num_images"] == 100


def test_another_model_than_was_asked_for(refused, repository):
    version = repository / "delugenet38" / "2"
    for subject in ("delugenet38", SPEC.weights, version, version / "model.onnx"):
        error = refused(subject, "--model", "delugenet146")
        assert "'delugenet38'" in error.problem
        assert "--model delugenet38" in error.remedy


def test_no_weights(refused):
    assert refused("delugenet146").expected == "delugenet146"


def test_other_classes_than_it_was_trained_on(refused, tmp_path):
    trained = load_checkpoint(SPEC.weights, SPEC)
    names = ("ant", *CIFAR10.class_names[1:])
    save_checkpoint(
        Checkpoint(SPEC.with_classes(names), trained.state), tmp_path / "ants.safetensors"
    )
    problem = refused(tmp_path / "ants.safetensors").problem
    assert "'ant'" in problem
    assert "'airplane'" in problem


def test_a_version_gets_batches_up_to_its_largest(tmp_path):
    plan = plan_export(
        SPEC, repository=tmp_path, backend="onnxruntime", precision="fp32", max_batch_size=4
    )
    folder = export(plan).folder
    with open_subject(Reference("version", str(folder))) as opened:
        assert opened.batch_size == 4


@pytest.mark.system
def test_a_servers_only_model_needs_no_name(evaluate, repository):
    from delugeserve.serving.supervisor import serve

    expected = evaluate(repository / "delugenet38")
    with serve(repository, grpc_port=0, http_port=None, metrics_port=None, direct=True) as server:
        for arguments in ((server.grpc_url,), ("--url", server.grpc_url)):
            found = evaluate(*arguments)
            assert found["subject"] == f"delugenet38 at {server.grpc_url}"
            assert found["confusion"] == expected["confusion"]


def test_a_server_must_be_there(refused):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{unused.getsockname()[1]}"
        for arguments in ((url,), (url, "--model", "delugenet38")):
            error = refused(*arguments)
            assert isinstance(error, ServerUnavailable)
            assert url in error.problem
