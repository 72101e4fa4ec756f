"""``delugeserve export``: options, what is printed, and how it ends."""

import json
import shutil
from typing import get_args

import numpy as np
import pytest

from delugeserve.artifacts.interface import Precision, SumForm
from delugeserve.cli.commands.export import BackendName, PrecisionName, SumFormName
from delugeserve.errors import CheckpointError, InvalidReferenceError
from delugeserve.runtimes import BACKENDS
from delugeserve.runtimes.onnxruntime import OnnxRuntime
from delugeserve.zoo import find_model
from delugeserve_export import tuning
from delugeserve_export.tuning import FORMS

WEIGHTS = find_model("delugenet38").weights


@pytest.fixture
def export(run, tmp_path, monkeypatch):
    """Runs the command on one model for ONNX Runtime."""
    monkeypatch.delenv("DELUGESERVE_DATA", raising=False)

    def export(*arguments):
        return run(
            "export", "--backend", "onnxruntime", "--max-batch-size", 2, "--sum-form", "mul",
            "--repository", tmp_path / "repository", *arguments,
        )  # fmt: skip

    return export


def test_choices_are_those_of_the_registries():
    assert get_args(BackendName) == ("auto", *(backend.flag for backend in BACKENDS.values()))
    assert get_args(PrecisionName) == ("auto", *get_args(Precision))
    assert get_args(SumFormName) == ("auto", *get_args(SumForm))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--backend", "onnxruntim"), "onnxruntime"),
        (("--precision", "fp23"), "fp32"),
        (("--sum-form", "batchnrm"), "batchnorm"),
        (("--calibration-method", "entrpy"), "entropy"),
        (("--max-batch-size", "0"), "--max-batch-size"),
        (("--max-drop", "1"), "--precision int8"),
        (("--keep-evidence",), "--data"),
        (("--report", "report.pdf"), ".html"),
    ],
)
def test_a_bad_option_is_refused_before_any_work(export, tmp_path, arguments, named):
    status, out, err = export("--model", "delugenet38", *arguments)
    assert (status, out) == (2, "")
    assert named in err
    assert not (tmp_path / "repository").exists()


def test_a_run_folder_is_its_checkpoint(export, tmp_path):
    (tmp_path / "first").mkdir()
    shutil.copy(WEIGHTS, tmp_path / "first" / "delugenet38.safetensors")
    status, out, err = export("--checkpoint", tmp_path / "first", "--dry-run", "--json")
    assert status == 0, err
    plan = json.loads(out)
    assert (plan["model"], plan["checkpoint"]) == ("delugenet38", "delugenet38.safetensors")
    assert plan["trained"] is True


def test_a_training_state_is_not_a_checkpoint(error, tmp_path, monkeypatch):
    (tmp_path / "last.ckpt").write_bytes(b"PK")
    found = error("export", "--checkpoint", tmp_path / "last.ckpt")
    assert isinstance(found, (InvalidReferenceError, CheckpointError))
    assert "last.ckpt" in found.problem
    assert ".safetensors" in found.remedy


def test_a_dry_run_prints_the_plan_and_does_nothing(export, tmp_path):
    status, out, err = export("--model", "delugenet38", "--dry-run")
    assert status == 0, err
    assert "load, fold, graph, build, reference, verify, time, publish" in out
    assert str(tmp_path / "repository" / "delugenet38" / "1") in out
    assert not (tmp_path / "repository").exists()


def test_what_a_server_will_offer(export):
    def plan(*options):
        status, out, err = export("--model", "delugenet38", "--dry-run", "--json", *options)
        assert status == 0, err
        values = json.loads(out)
        return values["outputs"], values["image_model"]

    assert plan() == (["probabilities"], "delugenet38_image")
    both = ["logits", "probabilities"]
    assert plan("--outputs", "probabilities, logits", "--no-image-model") == (both, None)
    for outputs, says in (("logits", "leaves probabilities out"), ("logit", "logits")):
        status, _, err = export("--model", "delugenet38", "--outputs", outputs)
        assert status == 2
        assert says in err


def test_it_prints_what_is_kept_and_what_to_do_next(export, tmp_path):
    status, out, err = export("--model", "delugenet38", "--precision", "fp32")
    assert status == 0, err
    assert "passed all" in out
    assert "stored for 'delugeserve verify': 16 crops of photographs" in out
    assert f"delugeserve serve --repository {tmp_path / 'repository'}" in err


def test_timings_of_sum_forms_from_another_day_are_not_printed(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        tuning, "_read", lambda _: {form: 98765.4 + place for place, form in enumerate(FORMS)}
    )
    monkeypatch.delenv("DELUGESERVE_DATA", raising=False)
    status, out, err = run(
        "export", "--model", "delugenet38", "--backend", "onnxruntime", "--max-batch-size", 2,
        "--repository", tmp_path,
    )  # fmt: skip
    assert status == 0, err
    assert f"Cross-layer sums: {FORMS[0]}" in err
    assert "9876" not in out + err


def test_a_rejected_artefact_is_printed_and_ends_with_status_1(export, tmp_path, monkeypatch):
    honest = OnnxRuntime.load

    def broken(self, artefact, precision):
        infer = honest(self, artefact, precision)
        return lambda images: infer(np.ascontiguousarray(images[..., ::-1]))

    monkeypatch.setattr(OnnxRuntime, "load", broken)
    page = tmp_path / "report.html"
    status, out, err = export("--model", "delugenet38", "--precision", "fp32", "--json",
                              "--report", page)  # fmt: skip
    assert status == 1
    manifest = json.loads(out)
    assert manifest["verification"]["status"] == "failed"
    assert "folder" not in manifest
    assert "logits, fp32 at batch size 1" in err
    assert "Nothing was published" in err
    assert "--precision fp32" not in err, "fp32 was used already"
    assert "failed" in page.read_text()
    assert not (tmp_path / "repository" / "delugenet38").exists()


def test_the_int8_report_names_data_method_and_drop(export, tmp_path, tiny_cifar):
    page = tmp_path / "report.html"
    status, out, err = export(
        "--model", "delugenet38", "--precision", "int8", "--data", tiny_cifar,
        "--calibration-images", 32, "--calibration-method", "minmax", "--max-drop", 100,
        "--report", page,
    )  # fmt: skip
    assert status == 0, err
    text = page.read_text()
    assert "minmax on 32 train images of tiny-cifar" in text
    assert "100 test images of tiny-cifar" in text
    assert "points" in text
    assert "calibrated by minmax on 32 train images of tiny-cifar" in out
    assert "100 allowed" in out


def test_a_second_version_says_what_changed_and_what_was_kept(export, tmp_path):
    folder = tmp_path / "repository" / "flowers"
    options = ("--model", "delugenet38", "--name", "flowers", "--json")
    status, out, err = export(*options)
    assert status == 0, err
    first = json.loads(out)
    assert (first["model"], first["folder"]) == ("flowers", str(folder / "1"))
    assert first["changes"] is None
    assert first["config"] == {"kept": [], "replaced": [], "lost": [], "saved": None}
    path = folder / "config.pbtxt"
    path.write_text(path.read_text().replace("count: 1", "count: 2"))
    status, out, err = export(*options, "--max-batch-size", 1)
    assert status == 0, err
    second = json.loads(out)
    assert second["changes"]["version"] == 1
    assert second["changes"]["facts"]["max_batch_size"] == {"before": 2, "now": 1}
    assert [one["field"] for one in second["config"]["kept"]] == ["instance_group"]
    other = ("--model", "delugenet146_cifar100", "--name", "flowers")
    status, out, err = export(*other)
    assert (status, out) == (2, "")
    assert "--replace-classes" in err
    status, out, err = export(*other, "--replace-classes", "--dry-run", "--json")
    assert status == 0, err
    plan = json.loads(out)
    assert (plan["model"], plan["name"]) == ("delugenet146_cifar100", "flowers")
    assert len(plan["changes"]["classes"]["added"]) == 100
    seen = [one.name for one in folder.iterdir() if not one.name.startswith(".")]
    assert sorted(seen) == ["1", "2", "config.pbtxt"]


def test_a_name_that_cannot_be_served_is_refused(export, error, tmp_path):
    status, out, err = export("--model", "delugenet38", "--name", "my flowers")
    assert (status, out) == (2, "")
    assert "Use --name my_flowers." in err
    assert not (tmp_path / "repository").exists()
