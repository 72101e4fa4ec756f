"""Temporary folders that no other process uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from delugeserve.serving import private_folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only temporary folder, TMPDIR: neither /tmp nor /var/tmp is looked at."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr(private_folder, "FALLBACK_FOLDERS", ())
    return folder
