"""Verifying a published version again: what it needs, what it finds, and what it writes."""

import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from delugeserve.artifacts.manifest import (
    EVIDENCE,
    Manifest,
    describe_files,
    read_manifest,
)
from delugeserve.artifacts.records import EvidenceRecord
from delugeserve.artifacts.typed_json import to_json
from delugeserve.data.datasets import load_images
from delugeserve.errors import InvalidReferenceError, UsageError
from delugeserve.verification.verify import verify_version
from delugeserve.zoo import CIFAR10
from delugeserve_export import export, plan_export


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    repository = tmp_path_factory.mktemp("published") / "model_repository"
    plan = plan_export(
        "delugenet38",
        repository=repository,
        backend="onnxruntime",
        precision="fp32",
        max_batch_size=8,
    )
    return export(plan).folder


@pytest.fixture
def version(published, tmp_path):
    return shutil.copytree(published.parent, tmp_path / "delugenet38") / "1"


def manifest_of(version):
    return json.loads((version / "manifest.json").read_text())


def test_a_version_is_verified_and_says_so(run, version):
    manifest = manifest_of(version)
    manifest["verification"]["status"] = "built, not run"
    (version / "manifest.json").write_text(json.dumps(manifest))
    status, out, _ = run("verify", version)
    assert status == 0
    assert "passed all" in out
    verified = manifest_of(version)
    assert verified["verification"]["status"] == "passed"
    assert verified["verification"]["date"] > manifest["created"][:10]
    assert verified["export_verification"] == manifest["verification"]
    left_out = {"verification": {}, "export_verification": {}}
    assert {**verified, **left_out} == {**manifest, **left_out}


def test_a_models_folder_means_the_version_it_serves(run, version):
    status, out, _ = run("verify", version.parent, "--json")
    assert status == 0
    assert json.loads(out)["model"] == "delugenet38"


@pytest.mark.parametrize(("hidden", "checks"), [(["torch"], 10), (["torch", "onnx"], 9)])
def test_it_needs_neither_torch_nor_onnx(version, hidden, checks):
    """Without onnx it is left open what the convolutions of ONNX Runtime compute in."""
    script = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({hidden}))\n"
        f"sys.argv = ['delugeserve', 'verify', {str(version)!r}]\n"
        "from delugeserve import cli\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"passed all {checks} checks" in done.stdout


def test_a_server_that_goes_away_says_nothing_of_the_artefact(version):
    before = manifest_of(version)

    def gone(images):
        raise UsageError("No server answers.", "Start one.")

    with pytest.raises(UsageError, match="No server answers"):
        verify_version(version, gone)
    assert manifest_of(version) == before


def put_evidence_of_another_network(version):
    """The version's own files stay whole."""
    with np.load(version / EVIDENCE) as file:
        arrays = dict(file)
    arrays["logits"] = arrays["logits"][:, ::-1]
    np.savez(version / EVIDENCE, **arrays)
    manifest = manifest_of(version)
    del manifest["files"][EVIDENCE]
    (version / "manifest.json").write_text(json.dumps(manifest))


def test_what_fails_is_reported_and_remembered(run, version, tmp_path):
    put_evidence_of_another_network(version)
    page = tmp_path / "report.html"
    status, out, err = run("verify", version, "--report", page)
    assert status == 1
    assert "error: The check 'logits, fp32 at batch size 1' failed" in err
    assert "failed" in out
    assert manifest_of(version)["verification"]["status"] == "failed"
    assert '<span class="failed">failed</span>' in page.read_text()


@pytest.mark.parametrize("failing", [False, True])
def test_where_nothing_can_be_written_the_result_is_told(
    run, version, tmp_path, monkeypatch, failing
):
    if failing:
        put_evidence_of_another_network(version)
    before = manifest_of(version)

    def read_only(self, folder):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Manifest, "write", read_only)
    page = tmp_path / "report.html"
    status, out, err = run("verify", version, "--report", page)
    said = " ".join(err.split())
    if failing:
        assert status == 1
        assert "error: The check 'logits, fp32 at batch size 1' failed" in said
        assert "cannot be written: Read-only file system." in said
        assert "failed" in out
    else:
        assert status == 2
        assert "cannot be written: Read-only file system." in said
        assert "passed all" in out
    assert page.is_file()
    assert manifest_of(version) == before


@pytest.mark.parametrize("name", ["model.onnx", EVIDENCE])
def test_a_changed_or_missing_file_is_named(run, version, name):
    content = (version / name).read_bytes()
    (version / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    status, _, err = run("verify", version)
    assert status == 2
    assert f"{name} has changed" in " ".join(err.split())
    (version / name).unlink()
    status, _, err = run("verify", version)
    assert status == 2
    assert f"{name} is missing" in " ".join(err.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged"),
        ('{"schema_version": 2}', "schema version is 2"),
        ("[]", "damaged"),
    ],
)
def test_a_manifest_that_is_none_is_refused(run, version, content, message):
    (version / "manifest.json").write_text(content)
    status, _, err = run("verify", version)
    assert status == 2
    assert message in " ".join(err.split())


def test_what_its_runtime_does_not_load_is_refused(run, version):
    """Written whole, and yet nothing for the runtime that is installed."""
    (version / "model.onnx").write_bytes(b"of another time")
    manifest = manifest_of(version)
    manifest["files"] |= to_json(describe_files([version / "model.onnx"]))
    (version / "manifest.json").write_text(json.dumps(manifest))
    status, out, err = run("verify", version)
    assert (status, out) == (2, "")
    assert "ONNX Runtime cannot load" in err
    assert manifest_of(version) == manifest


def test_other_paths_are_refused(error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").touch()
    for text in ("photo.png", "/none/1", str(tmp_path), "delugenet38"):
        found = error("verify", text)
        assert isinstance(found, InvalidReferenceError)
        assert found.text == text
    assert "delugeserve export --model delugenet38" in found.remedy


def test_a_models_name_is_looked_up_in_the_repository(run, version, monkeypatch, tmp_path):
    (tmp_path / "model_repository").symlink_to(version.parent.parent)
    monkeypatch.chdir(tmp_path)
    status, out, err = run("verify", version.parent.name)
    assert status == 0, err
    assert "passed all" in out


def test_a_models_folder_may_be_named_from_within_the_repository(run, version, monkeypatch):
    monkeypatch.chdir(version.parent.parent)
    status, out, err = run("verify", "delugenet38")
    assert status == 0, err
    assert "passed all" in out


def test_the_page_shows_everything_in_one_file(run, version, tmp_path):
    page = tmp_path / "report.html"
    assert run("verify", version, "--report", page)[0] == 0
    text = page.read_text()
    assert text.count("<svg") >= 2
    assert "src=" not in text
    for row in manifest_of(version)["files"].values():
        assert row["sha256"] in text


def test_a_page_that_cannot_be_written_is_refused_before_the_work(run, version, tmp_path):
    for path in (tmp_path / "none" / "report.html", tmp_path / "report.pdf"):
        status, out, _ = run("verify", version, "--report", path)
        assert (status, out) == (2, "")


def test_a_page_that_nothing_can_draw_is_refused_before_the_work(
    run, version, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    status, out, err = run("verify", version, "--report", tmp_path / "report.html")
    assert (status, out) == (2, "")
    assert "This needs 'jinja2'" in err


@pytest.fixture(scope="module")
def private(tmp_path_factory, write_tiny_cifar):
    return write_tiny_cifar(tmp_path_factory.mktemp("private") / "pets")


@pytest.fixture(scope="module")
def export_on(tmp_path_factory, private):
    """Exports the shipped weights, verified on private images."""

    def export_on(**options):
        repository = tmp_path_factory.mktemp("private") / "model_repository"
        plan = plan_export(
            "delugenet38",
            repository=repository,
            backend="onnxruntime",
            precision="fp32",
            sum_form="mul",
            max_batch_size=8,
            data=str(private),
            **options,
        )
        outcome = export(plan)
        assert outcome.published
        return outcome.folder

    return export_on


@pytest.fixture(scope="module")
def without_images(export_on):
    return export_on()


def images_in(folder):
    with np.load(folder / EVIDENCE) as file:
        arrays = [file[name] for name in file.files]
    return [image.tobytes() for array in arrays if array.ndim == 4 for image in array]


def private_images(private):
    images = load_images(private, "test", CIFAR10).images
    return {image.tobytes() for image in images}


def test_no_private_image_is_published(without_images, private):
    kept = images_in(without_images)
    assert len(kept) == 16
    assert not private_images(private) & set(kept)
    evidence = read_manifest(without_images).evidence
    assert evidence == EvidenceRecord(16, "test images of pets", 100, images_kept=False)
    images = read_manifest(without_images).verification.images
    assert images == "100 test images of pets and 16 crops of photographs"


def test_private_images_are_published_where_the_user_asked_for_it(run, export_on, private):
    folder = export_on(keep_evidence=True)
    assert private_images(private) < set(images_in(folder))
    assert read_manifest(folder).evidence.images_kept
    status, out, _ = run("verify", folder)
    assert status == 0
    assert "on 100 test images of pets and 16 crops of photographs" in out


def test_images_can_only_be_kept_of_data_that_is_named(monkeypatch, private):
    monkeypatch.setenv("DELUGESERVE_DATA", str(private))
    with pytest.raises(UsageError, match="--keep-evidence"):
        plan_export("delugenet38", keep_evidence=True)


def test_without_data_a_version_is_verified_on_photographs(run, without_images, tmp_path):
    folder = shutil.copytree(without_images, tmp_path / "1")
    status, out, err = run("verify", folder)
    assert status == 0
    assert "on 16 crops of photographs" in out
    assert "100 test images of pets too, add --data" in err
    manifest = read_manifest(folder)
    assert manifest.verification.images == "16 crops of photographs"
    assert manifest.export_verification == read_manifest(without_images).verification
    assert run("verify", folder)[0] == 0
    assert read_manifest(folder).export_verification == manifest.export_verification


def test_with_its_data_a_version_is_verified_on_all(run, without_images, private, tmp_path):
    folder = shutil.copytree(without_images, tmp_path / "1")
    status, out, err = run("verify", folder, "--data", private, "--json")
    assert status == 0, err
    manifest = json.loads(out)
    expected = "100 test images of pets and 16 crops of photographs"
    assert manifest["verification"]["images"] == expected
    assert manifest["verification"]["comparisons"][-1]["num_images"] == 116


def test_other_data_is_refused(run, without_images, version, private, write_tiny_cifar, tmp_path):
    folder = shutil.copytree(without_images, tmp_path / "1")
    before = manifest_of(folder)
    other = write_tiny_cifar(tmp_path / "other", seed=1)
    status, out, err = run("verify", folder, "--data", other)
    assert (status, out) == (2, "")
    assert "test images of pets" in err
    assert manifest_of(folder) == before


def test_data_is_refused_where_only_photographs_were_used(run, tmp_path, monkeypatch, private):
    monkeypatch.delenv("DELUGESERVE_DATA", raising=False)
    plan = plan_export(
        "delugenet38",
        repository=tmp_path / "repository",
        backend="onnxruntime",
        precision="fp32",
        sum_form="mul",
        max_batch_size=2,
    )
    folder = export(plan).folder
    assert read_manifest(folder).evidence == EvidenceRecord(16)
    status, out, err = run("verify", folder, "--data", private)
    assert (status, out) == (2, "")
    assert "photographs" in err
