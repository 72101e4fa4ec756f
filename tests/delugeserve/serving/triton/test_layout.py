"""The private folder of a server."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from delugeserve.errors import ServerError
from delugeserve.serving.triton import layout


def test_private_folder(prepare, installation, model):
    folder = prepare().folder
    assert (folder.models / "tiny").resolve() == model().folder
    python = folder.backends / "python"
    # The server refuses a backend library that is a link out of the backend's folder.
    assert not (python / "libtriton_python.so").is_symlink()
    assert (python / "triton_python_backend_stub").resolve() == installation.stub
    for name in ("onnxruntime", "openvino"):
        assert sorted(path.name for path in (folder.backends / name).iterdir()) == [
            "batching.py",
            "model.py",
        ]


def test_sweep_removes_what_a_killed_guardian_left_and_nothing_else(prepare, temporary):
    running, dead = prepare().folder, prepare().folder
    # A guardian shares the open file; here there is none.
    dead.lock.close()
    regions = [Path("/dev/shm") / f"{folder.shm_prefix}test" for folder in (running, dead)]
    for region in regions:
        region.touch()
    (temporary / "delugeserve-quickstart-of-someone").mkdir()
    try:
        layout.sweep()
        assert [region.exists() for region in regions] == [True, False]
        assert [folder.path.exists() for folder in (running, dead)] == [True, False]
        assert (temporary / "delugeserve-quickstart-of-someone").is_dir()
    finally:
        for region in regions:
            region.unlink(missing_ok=True)


def test_a_folder_that_is_swept_before_it_is_locked_is_replaced(temporary, monkeypatch):
    lock, swept = fcntl.flock, []

    def flock(file, operation):
        if not swept:
            swept.extend(temporary.iterdir())
            shutil.rmtree(swept[0])
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    folder = layout.create_folder()
    assert folder.path.is_dir()
    assert folder.path != swept[0]
    folder.remove()
    assert not list(temporary.iterdir())


def test_sweep_looks_nowhere_but_in_its_temporary_folder(temporary, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setattr(layout, "FALLBACK_FOLDERS", (str(elsewhere),))
    (elsewhere / "delugeserve-dead").mkdir(parents=True)
    (elsewhere / "delugeserve-dead" / "lock").touch()
    layout.sweep()
    assert (elsewhere / "delugeserve-dead").is_dir()


@pytest.mark.parametrize("name", ["with space", "with:colon", "absent", "noexec", "read-only"])
def test_an_unsuited_temporary_folder_is_passed_over(name, tmp_path, temporary, monkeypatch):
    unsuited = tmp_path / name
    if name != "absent":
        unsuited.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(unsuited))
    if name == "noexec":
        free = os.statvfs_result((0,) * 8 + (os.ST_NOEXEC, 255))
        monkeypatch.setattr(os, "statvfs", lambda place: free if place == str(unsuited) else FITS)
    if name == "read-only":
        monkeypatch.setattr(os, "access", lambda place, mode: place != str(unsuited))
    with pytest.raises(ServerError, match=name) as caught:
        layout.create_folder()
    assert "TMPDIR" in caught.value.remedy
    monkeypatch.setattr(layout, "FALLBACK_FOLDERS", (str(temporary),))
    folder = layout.create_folder()
    assert folder.path.parent == temporary
    folder.remove()


FITS = os.statvfs_result((0,) * 10)
