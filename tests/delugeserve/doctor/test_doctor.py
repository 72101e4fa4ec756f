"""``delugeserve doctor``: a good repository passes, and every damage is found and named."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from delugeserve.artifacts.manifest import read_manifest
from delugeserve.artifacts.repository import StoredModel
from delugeserve.artifacts.versions import read_version
from delugeserve.doctor import backends, machine, plans, repository, server
from delugeserve.doctor.extras import examine_extras
from delugeserve.doctor.faults import FAULTS, known_faults
from delugeserve.runtimes import BACKENDS
from delugeserve.serving.layout import FOLDER_PREFIX
from delugeserve.system import hardware
from delugeserve.system.files import sha256
from delugeserve.zoo import find_model


@pytest.fixture
def stored(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "model_repository")


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
def examine(stored):
    """The findings of the repository, which all concern its one model."""

    def examine():
        findings = list(repository.examine_repository(stored))
        assert {finding.subject for finding in findings} == {"tiny"}
        return findings

    return examine


@pytest.fixture
def only(examine):
    """The one finding of the repository: status, text and remedy."""

    def only():
        (finding,) = examine()
        return finding.status, finding.text, finding.remedy

    return only


def statuses(findings):
    return {finding.subject: finding.status for finding in findings}


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Put a program of that name on the PATH; the real one is where a GPU is."""

    def install(script):
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
        hardware.find_gpus.cache_clear()

    yield install
    hardware.find_gpus.cache_clear()


def test_a_good_repository(only):
    status, text, _ = only()
    assert status == "ok"
    cores = hardware.usable_cores()
    assert text == (
        f"version 1, onnxruntime in fp32, batches up to 8, 1 x {cores} threads, 10 labels, "
        "files whole"
    )


def test_a_flipped_bit(stored, only):
    artefact = stored / "tiny" / "1" / "model.onnx"
    content = bytearray(artefact.read_bytes())
    content[-100] ^= 1
    artefact.write_bytes(content)
    status, text, remedy = only()
    assert status == "problem"
    assert text == "1/model.onnx is not the file that was exported"
    assert remedy == (
        "Export it again with: delugeserve export --checkpoint tiny.safetensors "
        f"--backend onnxruntime --precision fp32 --max-batch-size 8 --repository {stored}"
    )


@pytest.mark.parametrize(
    ("outcome", "status", "said"),
    [("failed", "problem", "failed its last"), ("built, not run", "warning", "has not been run")],
)
def test_a_version_that_did_not_pass(stored, only, outcome, status, said):
    path = stored / "tiny" / "1" / "manifest.json"
    path.write_text(path.read_text().replace('"status": "passed"', f'"status": "{outcome}"'))
    found, text, remedy = only()
    assert (found, said in text) == (status, True)
    assert remedy


def test_the_shipped_weights_are_exported_again_by_name(stored, edit):
    edit('name: "tiny"', 'name: "delugenet38"')
    folder = (stored / "tiny").rename(stored / "delugenet38") / "1"
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["checkpoint"]["sha256"] = sha256(find_model("delugenet38").weights)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "model.onnx").unlink()
    (finding,) = repository.examine_repository(stored)
    assert "delugeserve export --model delugenet38 --backend onnxruntime" in finding.remedy


def test_an_artefact_that_is_gone(stored, edit, only):
    (stored / "tiny" / "1" / "model.onnx").unlink()
    assert only()[:2] == ("problem", "1/model.onnx is missing")


def test_a_configuration_that_loads_another_file(edit, only):
    edit('"model.onnx"', '"other.onnx"')
    assert only()[:2] == ("problem", "config.pbtxt loads other.onnx, and version 1 has none")


def test_another_maximum_than_was_verified(edit, examine):
    edit("max_batch_size: 8", "max_batch_size: 64")
    problem, warm_up = examine()
    assert problem.status == "problem"
    assert "max_batch_size is 64 in config.pbtxt, and 8 is what was built" in problem.text
    assert problem.remedy == "Write max_batch_size: 8, or export with --max-batch-size 64."
    assert warm_up.status == "warning"
    assert "no warm-up of batch 64:" in warm_up.text


def test_a_version_that_is_gone(stored, only):
    shutil.move(stored / "tiny" / "1", stored / "tiny" / "4")
    status, text, remedy = only()
    assert status == "problem"
    assert "serves a version that is not there" in text
    assert remedy == "Name one of 4 in its version_policy."
    shutil.rmtree(stored / "tiny" / "4")
    assert only()[2].endswith(f"delugeserve export --model tiny --repository {stored}")


@pytest.mark.parametrize("count", [0, 9, 11])
def test_labels_of_another_number(stored, examine, count):
    labels = stored / "tiny" / "1" / "labels.txt"
    labels.write_text("\n".join("abcdefghijk"[:count]))
    changed, *counted = examine()
    assert changed.text == "1/labels.txt is not the file that was exported"
    assert len(counted) == 2
    for finding in counted:
        assert finding.status == "problem"
        assert f"1/labels.txt has {count} labels for the 10 values of" in finding.text


def test_labels_that_are_gone(stored, examine):
    (stored / "tiny" / "1" / "labels.txt").unlink()
    missing, *outputs = examine()
    assert missing.text == "1/labels.txt is missing"
    assert [finding.status for finding in outputs] == ["problem", "problem"]
    assert "1/labels.txt, the labels of logits, is missing" in outputs[0].text


def test_more_threads_than_cores(stored, examine):
    cores = hardware.usable_cores()
    with (stored / "tiny" / "config.pbtxt").open("a") as file:
        file.write(
            f'parameters {{ key: "intra_op_thread_count" value {{ string_value: "{cores + 1}" }} }}'
        )
    (finding,) = examine()
    assert finding.status == "warning"
    assert finding.text.startswith(f"1 x {cores + 1} threads")
    assert finding.text.endswith(f"on {cores} cores")


def test_a_backend_that_no_server_has(edit, examine):
    edit('backend: "onnxruntime"', 'backend: "pytorch"')
    found = {finding.text: finding for finding in examine()}
    assert "config.pbtxt says backend pytorch, and the manifest onnxruntime" in found
    assert found["no server here has the backend 'pytorch'"].remedy.endswith("another --backend.")


def test_a_backend_whose_runtime_is_missing(monkeypatch, only):
    monkeypatch.setattr(server, "find_spec", lambda module: None)
    status, text, remedy = only()
    assert (status, text) == ("problem", "no server here has the backend 'onnxruntime'")
    assert "delugeserve[server]" in remedy


@pytest.mark.parametrize("gpus", [(), (hardware.Gpu("NVIDIA L4", "550.54", "8.9", "1 MiB"),)])
def test_a_plan_whose_runtime_is_missing(edit, examine, monkeypatch, gpus):
    edit('backend: "onnxruntime"', 'backend: "tensorrt"')
    monkeypatch.setattr(server, "find_spec", lambda module: None)
    monkeypatch.setattr(hardware, "usable_gpus", lambda: gpus)
    texts = [finding.text for finding in examine()]
    assert ("no server here has the backend 'tensorrt'" in texts) is bool(gpus)


def test_a_configuration_or_manifest_that_does_not_parse(stored, only):
    manifest = stored / "tiny" / "1" / "manifest.json"
    manifest.write_text("{")
    assert only()[0] == "problem"
    manifest.unlink()
    status, text, _ = only()
    assert status == "warning"
    assert "has no manifest" in text
    (stored / "tiny" / "config.pbtxt").write_text("max_batch_size: many")
    status, text, remedy = only()
    assert status == "problem"
    assert "config.pbtxt: 1:17" in text
    assert remedy


def test_the_server_is_asked_once_for_its_backends(stored, monkeypatch):
    shutil.copytree(stored / "tiny", stored / "small")
    config = stored / "small" / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "tiny"', 'name: "small"'))
    asked, find = [], server.find_tritonserver
    monkeypatch.setattr(server, "find_tritonserver", lambda: asked.append(1) or find())
    assert len(list(repository.examine_repository(stored))) == 2
    assert len(asked) == 1


def test_no_repository(tmp_path):
    (finding,) = repository.examine_repository(tmp_path / "nowhere")
    assert finding.status == "absent"
    assert finding.remedy.endswith(f"--model delugenet38 --repository {tmp_path / 'nowhere'}")


def examine_plan(stored, content=b"ftrt" + bytes(20) + bytes([9, 8, 7, 6]), engine=None):
    """What is found of the version with a plan in it."""
    version = stored / "tiny" / "1"
    (version / "model.plan").write_bytes(content)
    dataclasses.replace(read_manifest(version), engine=engine).write(version)
    model = StoredModel("tiny", version.parent, "tensorrt", True, 1)
    return list(plans.examine_plan(read_version(version), model, native=()))


def test_a_plan_where_there_is_no_gpu(stored, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    hardware.find_gpus.cache_clear()
    (finding,) = examine_plan(stored)
    assert finding.status == "absent"
    assert "runs on an NVIDIA GPU" in finding.text
    hardware.find_gpus.cache_clear()


def test_a_plan_for_another_gpu(stored, monkeypatch, make_plan_details):
    l4 = hardware.Gpu("NVIDIA L4", "550.54", "8.9", "23034 MiB")
    monkeypatch.setattr(hardware, "usable_gpus", lambda: [l4])
    (finding,) = examine_plan(stored, engine=make_plan_details(compute_capabilities=("8.6",)))
    assert finding.status == "problem"
    assert "8.6" in finding.text
    assert finding.remedy
    fitting = make_plan_details(compute_capabilities=(), minimum_compute_capability="8.0")
    assert examine_plan(stored, engine=fitting) == []


def test_something_else_that_is_called_a_plan(stored):
    findings = examine_plan(stored, b"no plan")
    assert findings[0].status == "problem"
    assert "is not a TensorRT plan" in findings[0].text


def test_this_machine():
    found = {finding.subject: finding for finding in machine.examine_machine()}
    assert sys.prefix in found["Python"].text
    assert f"{hardware.usable_cores()} cores" in found["processor"].text
    assert ("bf16 is native" in found["instructions"].text) == hardware.has_native_bf16()
    assert found["memory"].text.endswith("GiB")


def test_gpus(nvidia_smi, monkeypatch):
    nvidia_smi(
        'echo "NVIDIA L4, 550.54, 8.9, 23034 MiB, 0, GPU-a"; '
        'echo "NVIDIA T4, 550.54, 7.5, 15 MiB, 1, GPU-b"'
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    first, second = hardware.find_gpus()
    assert first == hardware.Gpu("NVIDIA L4", "550.54", "8.9", "23034 MiB", 0, "GPU-a")
    assert second.compute_capability == "7.5"
    texts = [finding.text for finding in machine.examine_machine() if finding.subject == "GPU"]
    assert texts[0] == "NVIDIA L4, 23034 MiB, driver 550.54, compute capability 8.9"
    assert texts[1].endswith("7.5; hidden by CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize("script", ["echo no devices; exit 9", "echo Field is not valid", "exit 1"])
def test_a_driver_that_does_not_work(nvidia_smi, script):
    nvidia_smi(script)
    (found,) = [finding for finding in machine.examine_machine() if finding.subject == "GPU"]
    assert found.status == "problem"
    assert found.remedy


def test_extras_are_those_of_the_package():
    found = {finding.subject: finding for finding in examine_extras()}
    assert found.keys() >= {"train", "export", "server", "benchmark", "demo", "tensorrt"}
    assert "dev" not in found
    assert found["export"].status == "ok"
    assert "onnxruntime" in found["export"].text


def test_backends_that_are_installed():
    found = {finding.subject: finding for finding in backends.examine_backends()}
    assert found.keys() == BACKENDS.keys()
    assert found["openvino"].status == "ok"
    best = BACKENDS["openvino"].best_precision()
    assert f"of which {best} is best here" in found["openvino"].text


def test_a_plan_backend_is_told_by_what_it_can_do_here(monkeypatch):
    def found(name):
        finding = backends._examine(BACKENDS[name], backends.Runtime("10.13.3"))
        return finding.status, finding.text

    monkeypatch.setattr(hardware, "usable_gpus", tuple)
    expected = ("absent", "TensorRT 10.13.3 cannot build or run here: no NVIDIA GPU")
    assert found("tensorrt") == expected
    status, text = found("tensorrt_rtx")
    assert status == "ok"
    assert text.endswith("; builds here, and runs where there is an NVIDIA GPU")
    l4 = hardware.Gpu("NVIDIA L4", "550.54", "8.9", "23034 MiB")
    monkeypatch.setattr(hardware, "usable_gpus", lambda: (l4,))
    monkeypatch.setattr(backends, "_is_installed", lambda module: module != "cuda.bindings")
    expected = ("problem", "TensorRT 10.13.3 builds here, and cannot run without cuda.bindings")
    assert found("tensorrt") == expected
    monkeypatch.setattr(backends, "_is_installed", lambda module: True)
    for name in ("tensorrt", "tensorrt_rtx"):
        status, text = found(name)
        assert (status, text.endswith("of which fp16 is best here")) == ("ok", True)


def test_a_module_in_no_package_is_not_installed():
    assert not backends._is_installed("no_such_package.bindings")
    assert backends._is_installed("importlib.metadata")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ImportError('libtbb.so.12: cannot open')", "ImportError: libtbb.so.12: cannot"),
        ("import os; os.abort()", "ends in SIGABRT"),
        ("import time; time.sleep(60)", "does not end within"),
    ],
    ids=["raises", "crashes", "hangs"],
)
def test_a_runtime_that_is_installed_and_broken(monkeypatch, tmp_path, source, reason):
    (tmp_path / "openvino.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    if "sleep" in source:
        monkeypatch.setattr(backends, "_TIMEOUT", 1.0)
    runtime = backends.import_runtime("openvino")
    assert runtime.version is None
    assert reason in runtime.reason
    finding = backends._examine(BACKENDS["openvino"], runtime)
    assert finding.status == "problem"
    assert "--force-reinstall 'delugeserve[export]'" in finding.remedy


def test_the_server_that_is_installed():
    found = {finding.subject: finding for finding in server.examine_server()}
    assert found["Triton"].status == "ok"
    assert found["Triton"].text.startswith("2.51.0, /")
    assert "libpython" in found["its needs"].text
    assert [fault.subject for fault in FAULTS] == list(found)[-len(FAULTS) :]
    assert found["malformed HTTP"].status == "warning"


def test_no_server_or_one_that_cannot_run_here(monkeypatch):
    monkeypatch.setattr("delugeserve.serving.installation._wheel_folder", lambda: None)
    monkeypatch.setenv("PATH", "/nowhere")
    (finding,) = server.examine_server()
    assert (finding.status, finding.subject) == ("absent", "Triton")
    assert "delugeserve[server]" in finding.remedy
    monkeypatch.setattr("delugeserve.serving.installation._wheel_folder", lambda: Path("/wheel"))
    monkeypatch.setattr("delugeserve.doctor.server.is_wheel_installed", lambda: True)
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.31"))
    (finding,) = server.examine_server()
    assert (finding.status, "glibc 2.31" in finding.text) == ("problem", True)


def test_a_server_nothing_is_known_of():
    assert known_faults("2.51.0") == list(FAULTS)
    assert known_faults("2.60.0") == []
    (finding,) = server._faults(None)
    assert finding.status == "absent"


def test_what_dead_servers_left_in_shared_memory():
    region = Path("/dev/shm") / f"{FOLDER_PREFIX}test-{os.getpid()}"
    holder = [sys.executable, "-c", HOLD, region]
    region.write_bytes(bytes(4096))
    try:
        with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"mapped\n"
            assert str(region) not in (server._leftovers().remedy or "")
            process.stdin.close()
        finding = server._leftovers()
        assert finding.status == "warning"
        assert str(region) in finding.remedy
    finally:
        region.unlink()


HOLD = """
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    region = mmap.mmap(file.fileno(), 0)
    print("mapped", flush=True)
    sys.stdin.read()
"""

WITHOUT_EXTRAS = """
import importlib.metadata
import sys
from importlib.machinery import PathFinder

HIDDEN = {"torch", "onnx", "onnxruntime", "openvino", "filelock", "pytriton", "nvidia-pytriton"}

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in HIDDEN
        return None if hidden else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, context=importlib.metadata.DistributionFinder.Context()):
        return [] if context.name in HIDDEN else super().find_distributions(context)

sys.meta_path[:] = [Hiding if finder is PathFinder else finder for finder in sys.meta_path]
from delugeserve import cli
cli.main()
"""


def test_the_base_installation_is_examined_too(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, "doctor", "--json"],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PATH": "/nowhere"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {(one["section"], one["subject"]): one for one in json.loads(done.stdout)}
    export = found["extras", "export"]
    assert export["status"] == "absent"
    assert export["text"] == "lacks filelock, onnx, onnxruntime, openvino, torch"
    assert export["remedy"] == "Install it with: pip install 'delugeserve[export]'"
    for name in ("onnxruntime", "openvino"):
        assert found["backends", name]["status"] == "absent"
    assert found["server", "Triton"]["status"] == "absent"
    assert found["repository", "model_repository"]["status"] == "absent"


def test_a_repository_that_was_named_has_to_be_there(run, tmp_path):
    status, out, err = run("doctor", "--repository", tmp_path / "nowhere")
    assert (status, out) == (2, "")
    assert "There is no model repository at" in err


def test_the_command_line(run, stored, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = run("doctor", "--repository", stored)
    assert status == 0, out
    assert [line for line in out.splitlines() if line and line == line.rstrip()][:3] == [
        "machine", "extras", "backends",
    ]  # fmt: skip
    assert "0 problems, " in err
    (stored / "tiny" / "1" / "model.onnx").write_bytes(b"")
    status, out, err = run("doctor", "--repository", stored)
    assert status == 1
    assert "1/model.onnx is not the file that was exported" in " ".join(out.split())
    assert "1 problem, " in err
