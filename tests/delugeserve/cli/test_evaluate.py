"""``delugeserve evaluate``: everything it takes, and what it says to everything else."""

import json
import re
import shutil
import socket

import onnx
import pytest
from onnx import TensorProto, helper

from delugeserve.artifacts.references import Reference, recognise
from delugeserve.errors import UsageError
from delugeserve.evaluation.subjects import open_subject
from delugeserve.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from delugeserve.zoo import CIFAR10, find_model
from delugeserve_export.pipeline import export
from delugeserve_export.request import Request

SPEC = find_model("delugenet38")


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_tiny_cifar):
    return write_tiny_cifar(tmp_path_factory.mktemp("data") / "tiny-cifar")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Two versions of the shipped weights, of which config.pbtxt serves the second."""
    repository = tmp_path_factory.mktemp("evaluated") / "model_repository"
    request = Request(SPEC, repository=repository, max_batch_size=8)
    for backend in ("openvino", "onnxruntime"):
        export(Request(**vars(request) | {"backend": backend, "precision": "fp32"}))
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
def refusal(run, data):
    """What ``evaluate`` says where it refuses."""

    def refusal(*arguments):
        status, out, err = run("evaluate", *arguments, "--data", data)
        assert (status, out) == (2, ""), err
        assert "Traceback" not in err
        assert len(err) < 800
        return " ".join(err.split())

    return refusal


def test_everything_about_the_shipped_weights(evaluate):
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


def test_the_same_figures_whatever_the_form(evaluate, repository):
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
        for figure in ("calibration_error", "negative_log_likelihood"):
            assert result[figure] == pytest.approx(expected[figure], rel=1e-3)


def test_an_onnx_file_is_called_by_what_its_weights_are_stored_in(evaluate, repository, tmp_path):
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


def test_a_terminal_reads_a_line_and_a_table(run, data, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = run("evaluate", "delugenet38", "--data", data)
    assert status == 0, err
    line, _, *table = out.rstrip().splitlines()
    assert re.fullmatch(
        r"delugenet38\.safetensors \(PyTorch, fp32\): top-1 error [\d.]+ % "
        r"\(95 % interval [\d.]+ to [\d.]+\), top-5 error [\d.]+ %, calibration error [\d.]+ %, "
        r"negative log-likelihood [\d.]+ on 100 test images; [\d,]+ images/s",
        line,
    )
    errors = [float(row.split()[-1]) for row in table[1:]]
    assert len(errors) == 10
    assert errors == sorted(errors, reverse=True), "the worst first"
    assert "the worst" not in err


def test_of_many_classes_a_terminal_sees_the_worst(capsys, monkeypatch):
    from delugeserve.cli.commands.evaluate import _print_report
    from delugeserve.evaluation.evaluate import ClassReport, Report

    classes = tuple(ClassReport(f"c{n}", 5, float(n), "c0", 1.0) for n in range(30))
    classes += (ClassReport("unseen", 0, None, None, None),)
    _print_report(Report(150, 20, 5, (15, 25), 3, 0.5, classes, (), ()), "a model", 1000)
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()[3:]] == [
        f"c{n}" for n in range(29, 19, -1)
    ]
    assert "the worst 10 of 30 classes; --json gives all of them" in err


def test_pictures(run, data, tmp_path):
    confusion, reliability = tmp_path / "new" / "confusion.png", tmp_path / "reliability.svg"
    status, _, err = run(
        "evaluate", "delugenet38", "--data", data, "--limit", "20",
        "--confusion", confusion, "--reliability", reliability,
    )  # fmt: skip
    assert status == 0, err
    assert confusion.read_bytes().startswith(b"\x89PNG")
    assert "calibration error" in reliability.read_text()


def test_a_picture_that_cannot_be_is_refused_before_the_work(refusal):
    assert "end in .png or .svg" in refusal("delugenet38", "--confusion", "confusion.jpg")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("localhost:8001", "endpoint"),
        ("10.0.0.7:8001", "endpoint"),
        ("[::1]:8001", "endpoint"),
        ("http://localhost:8000", "endpoint"),
        ("grpc://triton.example", "endpoint"),
        ("delugenet146", "weights"),
    ],
)
def test_addresses_and_names(text, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recognise(text) == Reference(kind, text)


def test_nothing_or_two_things(refusal, tmp_path):
    assert "There is nothing to evaluate." in refusal()
    assert "Only one thing" in refusal("delugenet38", "--checkpoint", tmp_path / "x.safetensors")
    assert "Only one thing" in refusal("--version", tmp_path, "--url", "localhost:8001")


def test_the_nearest_name_is_suggested(refusal, tmp_path):
    assert "Did you mean 'delugenet38'?" in refusal("delugnet38")
    (tmp_path / "first.safetensors").touch()
    said = refusal(tmp_path / "frist.safetensors")
    assert f"Did you mean '{tmp_path / 'first.safetensors'}'?" in said
    said = refusal("localhost")
    assert "no file, folder or model 'localhost'. Give a checkpoint (.safetensors)" in said
    assert "no file, folder or model" in refusal(tmp_path / "nowhere" / "at" / "all.onnx")


def test_a_name_that_is_also_a_folder_is_not_guessed_at(refusal, repository, monkeypatch):
    monkeypatch.chdir(repository)
    said = refusal("delugenet38")
    assert f"Write ./delugenet38 for what lies here, or {SPEC.weights} for the shipped" in said
    assert recognise("./delugenet38") == Reference("version", "delugenet38/2")


def test_a_folder_that_is_no_version(refusal, repository, tmp_path):
    assert "holds no exported version" in refusal(tmp_path)
    said = refusal(repository)
    assert "is a whole model repository" in said
    assert str(repository / "delugenet38") in said
    copied = shutil.copytree(repository / "delugenet38", tmp_path / "delugenet38")
    shutil.rmtree(copied / "2")
    assert "lacks the version that its config.pbtxt serves" in refusal(copied)
    (copied / "1" / "model.xml").write_text("<net/>")
    assert "OpenVINO cannot load" in refusal(copied / "1")
    (copied / "1" / "manifest.json").write_text("{}")
    assert "was written by another release" in refusal(copied / "1")


def test_a_file_that_is_nothing_of_ours(refusal, tmp_path):
    (tmp_path / "notes.txt").touch()
    assert "neither a checkpoint nor an ONNX file" in refusal(tmp_path / "notes.txt")
    (tmp_path / "bad.onnx").write_bytes(b"\xff\xff no model")
    assert "ONNX Runtime cannot load" in refusal(tmp_path / "bad.onnx")


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


def test_an_onnx_file_of_someone_else(refusal, tmp_path):
    path = tmp_path / "resnet.onnx"
    write_onnx(path, ["batch", 3, 224, 224], {})
    said = refusal(path)
    assert "does not say which model it holds; it takes 'data' float [N, 3, 224, 224]" in said
    assert "'image' uint8 [N, H, W, 3]" in said
    said = refusal(path, "--model", "delugenet92")
    assert "takes 'data' float [N, 3, 224, 224] and gives 'prob' float [N, 3, 224, 224]" in said
    assert "takes 'image' uint8 [N, 224, 224, 3] and gives 'logits' float [N, 1000] and" in said
    write_onnx(path, ["batch", 3], {"model": "delugenet38"})
    assert "but 'delugenet38' takes 'image' uint8 [N, 32, 32, 3]" in refusal(path)


def test_an_onnx_file_without_metadata_is_told_its_model(evaluate, refusal, repository, tmp_path):
    model = onnx.load(repository / "delugenet38" / "2" / "model.onnx")
    helper.set_model_props(model, {})
    onnx.save(model, tmp_path / "bare.onnx")
    assert "say which with --model" in refusal(tmp_path / "bare.onnx")
    assert evaluate(tmp_path / "bare.onnx", "--model", "delugenet38")["num_images"] == 100


def test_another_model_than_was_asked_for(refusal, repository):
    version = repository / "delugenet38" / "2"
    for subject in ("delugenet38", SPEC.weights, version, version / "model.onnx"):
        said = refusal(subject, "--model", "delugenet146")
        assert "holds 'delugenet38'" in said
        assert "Say --model delugenet38" in said


def test_no_weights(refusal):
    said = refusal("delugenet146")
    assert "No trained weights of 'delugenet146' ship" in said


def test_other_classes_than_it_was_trained_on(refusal, tmp_path):
    trained = load_checkpoint(SPEC.weights, SPEC)
    names = ("ant", *CIFAR10.class_names[1:])
    save_checkpoint(Checkpoint(SPEC, names, trained.state), tmp_path / "ants.safetensors")
    said = refusal(tmp_path / "ants.safetensors")
    assert "'ant'" in said
    assert "'airplane'" in said


def test_a_version_is_given_no_more_than_its_largest_batch(tmp_path):
    request = Request(SPEC, None, tmp_path, "onnxruntime", "fp32", max_batch_size=4)
    folder = export(request).folder
    with open_subject(Reference("version", str(folder))) as opened:
        assert opened.batch_size == 4


def test_a_server_needs_a_model_and_must_be_there(refusal):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{unused.getsockname()[1]}"
        assert "Say which with --model" in refusal(url)
        assert f"No server answers at {url}" in refusal(url, "--model", "delugenet38")


def test_what_may_not_be_read(tmp_path):
    with pytest.raises(UsageError, match="cannot be read: File name too long"):
        recognise("x" * 300)
