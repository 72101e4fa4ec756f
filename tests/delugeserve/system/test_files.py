"""Written files and temporary folders, also where they cannot be made or the disk is full."""

import errno
import os
import resource

import pytest

from delugeserve.errors import UsageError
from delugeserve.system.files import make_readable, temporary_folder, write_output


def test_a_temporary_folder_is_removed():
    with temporary_folder() as folder:
        (folder / "file").write_bytes(b"content")
    assert not folder.exists()


def test_a_missing_place_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(UsageError, match=str(tmp_path / "gone")) as caught:
        temporary_folder().__enter__()
    assert "TMPDIR" in caught.value.remedy


def test_an_output_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with write_output(path) as beside:
        beside.write_text("old")
    with pytest.raises(UsageError, match=r"a\.txt cannot be written: No space left\.") as caught:
        _fill_the_disk(path)
    assert caught.value.remedy == "Free some space."
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_permissions_are_the_owners_to_give(tmp_path, monkeypatch):
    path = tmp_path / "a folder"
    path.mkdir()
    assert make_readable(path) == f"Make it readable: chmod -R u+rX '{path}'"
    monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)
    assert make_readable(path) == f"Have its owner run: chmod -R a+rX '{path}'"


def _fill_the_disk(path):
    with write_output(path, "Free some space.") as beside:
        beside.write_text("new")
        raise OSError(errno.ENOSPC, "No space left")


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with (
            pytest.raises(UsageError, match=str(tmp_path)),
            temporary_folder() as folder,
        ):
            (folder / "file").write_bytes(bytes(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
