"""Checks of TensorRT plans."""

import dataclasses

from delugeserve.artifacts.manifest import read_manifest
from delugeserve.artifacts.repository import StoredModel
from delugeserve.artifacts.versions import read_version
from delugeserve.doctor import plans
from delugeserve.system import hardware


def check_plan(stored, content=b"ftrt" + bytes(20) + bytes([9, 8, 7, 6]), engine=None):
    """What is found of the version with a plan in it."""
    version = stored / "tiny" / "1"
    (version / "model.plan").write_bytes(content)
    dataclasses.replace(read_manifest(version), engine=engine).write(version)
    model = StoredModel("tiny", version.parent, "tensorrt", True, 1)
    return list(plans.check_plan(read_version(version), model, native=False))


def test_a_plan_where_there_is_no_gpu(stored, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    hardware.find_gpus.cache_clear()
    (finding,) = check_plan(stored)
    assert finding.status == "absent"
    assert "runs on an NVIDIA GPU" in finding.text
    hardware.find_gpus.cache_clear()


def test_a_plan_for_another_gpu(stored, monkeypatch, make_plan_details):
    l4 = hardware.Gpu("NVIDIA L4", "550.54", "8.9", "23034 MiB")
    monkeypatch.setattr(hardware, "usable_gpus", lambda: [l4])
    (finding,) = check_plan(stored, engine=make_plan_details(compute_capabilities=("8.6",)))
    assert finding.status == "problem"
    assert "8.6" in finding.text
    assert finding.remedy
    fitting = make_plan_details(compute_capabilities=(), minimum_compute_capability="8.0")
    assert check_plan(stored, engine=fitting) == []


def test_something_else_that_is_called_a_plan(stored):
    findings = check_plan(stored, b"no plan")
    assert findings[0].status == "problem"
    assert "is not a TensorRT plan" in findings[0].text
