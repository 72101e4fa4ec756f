"""Temporary files, where there is no place or no room for them."""

import resource

import pytest

from delugeserve.errors import UsageError
from delugeserve.system.files import temporary_folder


def test_a_temporary_folder_is_gone_at_the_end():
    with temporary_folder() as folder:
        (folder / "file").write_bytes(b"content")
    assert not folder.exists()


def test_a_place_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(UsageError, match=r"cannot be written to .*gone: No such file") as caught:
        temporary_folder().__enter__()
    assert "set TMPDIR" in caught.value.remedy


def test_a_lack_of_room_is_said_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with (
            pytest.raises(UsageError, match=r"Temporary files cannot be written to .*too large"),
            temporary_folder() as folder,
        ):
            (folder / "file").write_bytes(bytes(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
