"""Checks of the extras."""

from delugeserve.doctor.extras import check_extras


def test_extras_are_those_of_the_package():
    found = {finding.subject: finding for finding in check_extras()}
    assert found.keys() >= {"train", "export", "server", "benchmark", "demo", "tensorrt"}
    assert "dev" not in found
    assert found["export"].status == "ok"
    assert "onnxruntime" in found["export"].text
