"""Checks of the extras."""

import pytest

from delugeserve.doctor import extras
from delugeserve.doctor.extras import check_extras
from delugeserve.system import hardware


def test_extras_are_those_of_the_package():
    found = {finding.subject: finding for finding in check_extras()}
    assert found.keys() >= {"train", "export", "server", "benchmark", "demo", "tensorrt"}
    assert "dev" not in found
    assert found["export"].status == "ok"
    assert "onnxruntime" in found["export"].text


@pytest.mark.parametrize(("gpus", "helps"), [(0, False), (1, True)])
def test_an_extra_for_a_gpu_is_suggested_with_a_gpu(monkeypatch, gpus, helps):
    l4 = hardware.Gpu("NVIDIA L4", "550.54", "8.9", "23034 MiB")
    monkeypatch.setattr(hardware, "usable_gpus", lambda: (l4,) * gpus)
    monkeypatch.setattr(extras, "_is_installed", lambda package: False)
    found = {finding.subject: finding for finding in check_extras()}
    assert found["export"].remedy is not None
    for extra in ("tensorrt", "tensorrt-rtx"):
        assert found[extra].status == "absent"
        assert (found[extra].remedy is not None) == helps


def test_an_extra_that_includes_another_does_not_list_the_package(monkeypatch):
    required = ["delugeserve[container]; extra == 'server'", "psutil; extra == 'server'"]
    monkeypatch.setattr(extras.importlib.metadata, "requires", lambda package: required)
    (finding,) = check_extras()
    assert (finding.subject, finding.text) == ("server", "psutil")
