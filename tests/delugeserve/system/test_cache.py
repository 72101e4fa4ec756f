"""The user's cache folder."""

from __future__ import annotations

from pathlib import Path

from delugeserve.system.cache import cache_folder, write_cache


def test_the_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "delugeserve"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "delugeserve"


def test_a_cache_that_cannot_be_written_is_skipped(tmp_path):
    (tmp_path / "file").touch()
    write_cache(tmp_path / "file" / "cache", b"timings")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    write_cache(tmp_path / "folder", b"timings")
    write_cache(tmp_path / "caches" / "cache", b"timings")
    assert (tmp_path / "caches" / "cache").read_bytes() == b"timings"
    assert [path.name for path in (tmp_path / "caches").iterdir()] == ["cache"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["caches", "file", "folder"]
