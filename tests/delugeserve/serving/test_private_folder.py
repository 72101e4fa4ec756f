"""The private folder of a process: where it goes, its lock, and what a sweep removes."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil

import pytest

from delugeserve.errors import ServerError
from delugeserve.serving import private_folder
from delugeserve.serving.private_folder import PrivateFolder

FITS = os.statvfs_result((0,) * 10)


def test_a_folder_that_is_swept_before_it_is_locked_is_replaced(temporary, monkeypatch):
    lock, swept = fcntl.flock, []

    def flock(file, operation):
        if not swept:
            swept.extend(temporary.iterdir())
            shutil.rmtree(swept[0])
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    folder = PrivateFolder.create()
    assert folder.path.is_dir()
    assert folder.path != swept[0]
    folder.remove()
    assert not list(temporary.iterdir())


def test_a_full_temporary_folder(temporary, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(ServerError, match="No space left") as caught:
        PrivateFolder.create()
    assert str(temporary) in caught.value.problem
    assert "TMPDIR" in caught.value.remedy


def test_sweep_looks_nowhere_but_in_its_temporary_folder(temporary, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setattr(private_folder, "FALLBACK_FOLDERS", (str(elsewhere),))
    (elsewhere / "delugeserve-dead").mkdir(parents=True)
    (elsewhere / "delugeserve-dead" / "lock").touch()
    private_folder.sweep()
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
        PrivateFolder.create()
    assert "TMPDIR" in caught.value.remedy
    monkeypatch.setattr(private_folder, "FALLBACK_FOLDERS", (str(temporary),))
    folder = PrivateFolder.create()
    assert folder.path.parent == temporary
    folder.remove()
