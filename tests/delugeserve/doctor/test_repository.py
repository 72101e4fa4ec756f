"""Checks of a repository: an intact one passes, and every damage is found and named."""

import dataclasses
import shlex
import shutil

import pytest

from delugeserve.artifacts.manifest import read_manifest
from delugeserve.artifacts.records import Check
from delugeserve.doctor import repository, server
from delugeserve.runtimes.base import Backend
from delugeserve.system import hardware
from delugeserve.system.files import sha256
from delugeserve.zoo import find_model

LABELS = "1/labels.txt"


@pytest.fixture
def edit(stored):
    """Replace text in the model's config.pbtxt."""

    def edit(old, new):
        path = stored / "tiny" / "config.pbtxt"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return edit


@pytest.fixture
def check(stored):
    """The findings of the repository, all of them about its one model."""

    def check():
        findings = list(repository.check_repository(stored))
        assert {finding.subject for finding in findings} == {"tiny"}
        for finding in findings:
            assert finding.remedy or finding.status != "problem"
        return findings

    return check


@pytest.fixture
def only(check):
    """The one finding of the repository."""

    def only():
        (finding,) = check()
        return finding

    return only


def test_an_intact_repository(only):
    finding = only()
    assert finding.status == "ok"
    cores = hardware.usable_cores()
    assert finding.text.startswith("version 1, onnxruntime in fp32, batches up to 8, ")
    assert f"1 instance of {cores} threads, 10 labels" in finding.text


def test_a_flipped_bit(stored, only):
    artefact = stored / "tiny" / "1" / "model.onnx"
    content = bytearray(artefact.read_bytes())
    content[-100] ^= 1
    artefact.write_bytes(content)
    finding = only()
    assert finding.status == "problem"
    assert finding.text.startswith("1/model.onnx is not")
    assert finding.remedy == (
        "Export it again with: delugeserve export --checkpoint tiny.safetensors "
        f"--backend onnxruntime --precision fp32 --max-batch-size 8 --repository {stored}"
    )


def test_a_version_that_failed_its_verification(stored, only):
    change_verification(
        stored, status="failed", checks=(Check("agreement", False, "12 %", "99 %"),)
    )
    finding = only()
    assert finding.status == "problem"
    assert "agreement: 12 %" in finding.text
    # Exporting with the same settings would fail in the same way.
    assert "another precision" in finding.remedy


def test_a_version_that_was_not_verified(stored, only):
    change_verification(stored, status="built, not run")
    finding = only()
    assert finding.status == "warning"
    assert finding.remedy.endswith(f"delugeserve verify {stored / 'tiny' / '1'}")


def change_verification(stored, **changes):
    version = stored / "tiny" / "1"
    manifest = read_manifest(version)
    verification = dataclasses.replace(manifest.verification, **changes)
    dataclasses.replace(manifest, verification=verification).write(version)


def test_the_shipped_weights_are_exported_again_by_name(stored, edit):
    edit('name: "tiny"', 'name: "delugenet38"')
    folder = (stored / "tiny").rename(stored / "delugenet38") / "1"
    manifest = read_manifest(folder)
    spec = find_model("delugenet38")
    origin = dataclasses.replace(manifest.checkpoint, sha256=sha256(spec.weights))
    dataclasses.replace(manifest, checkpoint=origin, network=spec).write(folder)
    (folder / "model.onnx").unlink()
    (finding,) = (one for one in repository.check_repository(stored) if one.status == "problem")
    assert "delugeserve export --model delugenet38 --backend onnxruntime" in finding.remedy


def test_a_missing_artefact(stored, only):
    (stored / "tiny" / "1" / "model.onnx").unlink()
    finding = only()
    assert (finding.status, finding.text) == ("problem", "1/model.onnx is missing")


def test_a_configuration_that_loads_another_file(edit, only):
    edit('"model.onnx"', '"other.onnx"')
    finding = only()
    assert finding.status == "problem"
    assert "other.onnx" in finding.text


def test_a_misspelt_field(edit, only):
    edit("dynamic_batching {", "dynamic_batching { max_queue_delay: 5")
    edit("instance_group {", "instance_groups {")
    finding = only()
    assert finding.status == "warning"
    assert "instance_groups, dynamic_batching.max_queue_delay" in finding.text


def test_another_batch_size_than_was_verified(stored, edit, only):
    edit("max_batch_size: 8", "max_batch_size: 64")
    finding = only()
    assert finding.status == "problem"
    assert "max_batch_size is 64" in finding.text
    assert f"max_batch_size: 8 in {stored / 'tiny' / 'config.pbtxt'}" in finding.remedy


def test_a_warm_up_that_exceeds_the_lowered_batch_size(edit, check, run):
    edit("max_batch_size: 8", "max_batch_size: 4")
    warmup, *companions = check()
    assert warmup.status == "problem"
    assert "warm-up of batch 8" in warmup.text
    assert "batch_size: 4 in that model_warmup" in warmup.remedy
    edit("batch_size: 8", "batch_size: 4")
    assert {one.status for one in companions} <= {"problem"}
    for command in {one.remedy.partition("delugeserve ")[2] for one in companions}:
        assert run(*shlex.split(command))[0] == 0
    assert [one.status for one in check()] == ["ok"]


def test_the_remedy_for_a_missing_warm_up_can_be_pasted(stored, only):
    path = stored / "tiny" / "config.pbtxt"
    text = path.read_text()
    path.write_text(text[: text.index("model_warmup")] + 'backend: "onnxruntime"\n')
    finding = only()
    assert finding.status == "warning"
    assert "batch 1 and 8" in finding.text
    where, _, addition = finding.remedy.partition(": ")
    assert str(path) in where
    with path.open("a") as file:
        file.write(addition)
    assert only().status == "ok"


def test_a_version_that_does_not_exist(stored, only):
    shutil.move(stored / "tiny" / "1", stored / "tiny" / "4")
    finding = only()
    assert finding.status == "problem"
    assert f"delugeserve promote tiny 4 --repository {stored}" in finding.remedy
    shutil.rmtree(stored / "tiny" / "4")
    finding = only()
    assert finding.status == "problem"
    again = f"delugeserve export --checkpoint RUN --name tiny --repository {stored}"
    assert again in finding.remedy


@pytest.mark.parametrize("count", [0, 9, 11])
def test_another_number_of_labels(stored, check, count):
    (stored / "tiny" / LABELS).write_text("\n".join("abcdefghijk"[:count]))
    changed, counted = check()
    assert changed.text.startswith(f"{LABELS} is not")
    assert counted.status == "problem"
    assert f"{LABELS} has {count} labels" in counted.text


def test_missing_labels(stored, check):
    (stored / "tiny" / LABELS).unlink()
    missing, *outputs = check()
    assert missing.text == f"{LABELS} is missing"
    assert [finding.status for finding in outputs] == ["problem"]


def test_labels_of_a_version_that_is_not_served(stored, edit, check, run):
    shutil.copytree(stored / "tiny" / "1", stored / "tiny" / "2")
    edit(f'"{LABELS}"', '"2/labels.txt"')
    (finding,) = {one for one in check() if one.subject == "tiny"}
    assert finding.status == "problem"
    assert "version 2" in finding.text
    _, command = finding.remedy.split("delugeserve ", 1)
    assert run(*shlex.split(command))[0] == 0
    assert [finding.status for finding in check()] == ["ok"]


def test_an_interrupted_change_and_a_canary_that_is_gone(stored, run):
    (stored / ".transaction.json").write_text('{"moves": [], "files": {}}')
    (stored / ".canary.json").write_text('{"model": "tiny", "version": 7, "share": 0.1}')
    findings = [one for one in repository.check_repository(stored) if one.status == "problem"]
    assert len(findings) == 2
    for finding in findings:
        command = finding.remedy.partition("delugeserve ")[2]
        assert run(*shlex.split(command))[0] == 0
    assert [one.status for one in repository.check_repository(stored)] == ["ok"]


def test_more_threads_than_cores(stored, only):
    threads = hardware.usable_cores() + 1
    with (stored / "tiny" / "config.pbtxt").open("a") as file:
        file.write(
            f'parameters {{ key: "intra_op_thread_count" value {{ string_value: "{threads}" }} }}'
        )
    finding = only()
    assert finding.status == "warning"
    assert finding.text.startswith(f"1 x {threads} threads")


def test_the_remedy_for_a_queue_with_limits_can_be_pasted(stored, only, run):
    assert run("configure", "tiny", "--queue-timeout", "1s", "--repository", stored)[0] == 0
    finding = only()
    assert finding.status == "warning"
    words = shlex.split(finding.remedy.partition(": ")[2])
    assert words[0] == "delugeserve"
    assert run(*words[1:])[0] == 0
    assert only().status == "ok"


def test_a_backend_that_no_server_has(edit, check):
    edit('backend: "onnxruntime"', 'backend: "pytorch"')
    mismatch, unknown = check()
    assert "pytorch" in mismatch.text
    assert "onnxruntime" in mismatch.text
    assert "'pytorch'" in unknown.text
    assert "another --backend" in unknown.remedy


def test_a_backend_whose_runtime_is_missing(monkeypatch, only):
    monkeypatch.setattr(Backend, "is_installed", lambda self: False)
    finding = only()
    assert finding.status == "problem"
    assert "'onnxruntime'" in finding.text
    assert "delugeserve[server]" in finding.remedy


@pytest.mark.parametrize("gpus", [(), (hardware.Gpu("NVIDIA L4", "550.54", "8.9", "1 MiB"),)])
def test_a_plan_whose_runtime_is_missing(edit, check, monkeypatch, gpus):
    edit('backend: "onnxruntime"', 'backend: "tensorrt_rtx"')
    monkeypatch.setattr(Backend, "is_installed", lambda self: False)
    monkeypatch.setattr(hardware, "usable_gpus", lambda: gpus)
    found = [finding for finding in check() if "no server here" in finding.text]
    assert bool(found) is bool(gpus)
    for finding in found:
        assert "delugeserve[tensorrt-rtx]" in finding.remedy


def test_files_that_do_not_parse(stored, only):
    manifest = stored / "tiny" / "1" / "manifest.json"
    manifest.write_text("{")
    assert only().status == "problem"
    manifest.unlink()
    finding = only()
    assert finding.status == "warning"
    assert "manifest.json" in finding.text
    (stored / "tiny" / "config.pbtxt").write_text("max_batch_size: many")
    finding = only()
    assert finding.status == "problem"
    assert "config.pbtxt: 1:17" in finding.text


def test_the_server_is_looked_up_once(stored, monkeypatch):
    shutil.copytree(stored / "tiny", stored / "small")
    config = stored / "small" / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "tiny"', 'name: "small"'))
    calls, find = [], server.find_tritonserver
    monkeypatch.setattr(server, "find_tritonserver", lambda: calls.append(1) or find())
    assert len(list(repository.check_repository(stored))) == 2
    assert len(calls) == 1


def test_no_repository(tmp_path):
    (finding,) = repository.check_repository(tmp_path / "nowhere")
    assert finding.status == "absent"
    assert finding.remedy.endswith(f"--model delugenet38 --repository {tmp_path / 'nowhere'}")


@pytest.mark.parametrize(
    ("size", "cores", "status", "reason"),
    [(2, 8, "warning", "too small for 8 cores"), (16, 2, "problem", "max_batch_size is 8")],
)
def test_the_remedy_for_a_preferred_batch_size_can_be_pasted(
    edit, only, run, monkeypatch, size, cores, status, reason
):
    monkeypatch.setattr(hardware, "usable_cores", lambda: cores)
    edit("dynamic_batching {", f"dynamic_batching {{ preferred_batch_size: {size}")
    finding = only()
    assert finding.status == status
    assert reason in finding.text
    assert run(*shlex.split(finding.remedy.partition(": ")[2])[1:])[0] == 0
    assert only().status == "ok"
