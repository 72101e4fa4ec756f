"""Temporary folders, also where they cannot be made or the disk is full."""

import resource

import pytest

from delugeserve.errors import UsageError
from delugeserve.system.files import temporary_folder


def test_a_temporary_folder_is_removed():
    with temporary_folder() as folder:
        (folder / "file").write_bytes(b"content")
    assert not folder.exists()


def test_a_missing_place_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(UsageError, match=str(tmp_path / "gone")) as caught:
        temporary_folder().__enter__()
    assert "TMPDIR" in caught.value.remedy


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
