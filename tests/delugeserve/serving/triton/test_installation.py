"""Finding a server, and machines that cannot run it."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from delugeserve.errors import MissingExtraError, UsageError
from delugeserve.serving.triton import installation as module


@pytest.fixture
def wheel(monkeypatch):
    """Pretend that the wheel is installed, on a machine that can run it."""
    monkeypatch.setattr(module, "_wheel_folder", lambda: Path("/wheel"))
    for name, value in (
        ("system", "Linux"),
        ("machine", "x86_64"),
        ("libc_ver", ("glibc", "2.36")),
    ):
        monkeypatch.setattr(platform, name, lambda value=value: value)


@pytest.mark.parametrize(
    ("function", "value", "found"),
    [
        ("system", "Darwin", "x86_64 Darwin"),
        ("machine", "aarch64", "aarch64 Linux"),
        ("libc_ver", ("glibc", "2.31"), "glibc 2.31"),
        ("libc_ver", ("", ""), "another libc"),
    ],
)
@pytest.mark.usefixtures("wheel")
def test_machines_that_cannot_run_it(monkeypatch, function, value, found):
    monkeypatch.setattr(platform, function, lambda: value)
    with pytest.raises(UsageError, match=found) as caught:
        module.find_tritonserver()
    assert "--tritonserver" in caught.value.remedy


@pytest.mark.usefixtures("wheel")
def test_a_python_without_a_shared_library(monkeypatch):
    monkeypatch.setattr(module, "find_libpython", lambda: None)
    with pytest.raises(UsageError, match="libpython"):
        module.find_tritonserver()


def test_no_server(monkeypatch):
    monkeypatch.setattr(module, "_wheel_folder", lambda: None)
    monkeypatch.setattr(module, "check_machine", lambda: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingExtraError) as caught:
        module.find_tritonserver()
    assert (caught.value.module, caught.value.extra) == ("nvidia-pytriton", "server")


def test_a_server_on_path_or_given(monkeypatch, installation, tmp_path):
    monkeypatch.setattr(module, "_wheel_folder", lambda: None)
    monkeypatch.setenv("PATH", str(installation.executable.parent))
    for found in (module.find_tritonserver(), module.find_tritonserver(installation.executable)):
        assert found.backends == installation.backends
        assert found.stub is None
    with pytest.raises(UsageError, match=str(tmp_path / "absent")):
        module.find_tritonserver(tmp_path / "absent")


def test_a_program_without_backends(tmp_path):
    lone = tmp_path / "tritonserver"
    lone.write_text("")
    lone.chmod(0o755)
    if Path("/opt/tritonserver/backends").is_dir():
        pytest.skip("this machine has a server in the usual place")
    with pytest.raises(UsageError, match="backends"):
        module.find_tritonserver(lone)
