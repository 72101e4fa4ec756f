"""Status files of running servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from server_status import server_status

from delugeserve.errors import UsageError
from delugeserve.serving.fleet import status
from delugeserve.serving.fleet.status import ServerStatus, StatusFile, find_servers


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "delugeserve"


def make(repository: Path, started: str = "2026-01-01T00:00:00+00:00") -> ServerStatus:
    return server_status(repository, started=started)


def test_running_servers_are_found_by_their_repository(tmp_path, home):
    files = [StatusFile(), StatusFile()]
    files[0].write(make(tmp_path / "b", "2026-01-02"))
    files[1].write(make(tmp_path / "a", "2026-01-01"))
    assert [Path(one.repository).name for one in find_servers()] == ["a", "b"]
    assert find_servers(tmp_path / "b") == [make(tmp_path / "b", "2026-01-02")]
    assert home.stat().st_mode & 0o777 == 0o700
    for file in files:
        file.remove()
    assert find_servers() == []
    assert not list(home.iterdir())


def test_what_a_killed_server_left_is_removed(tmp_path, home):
    code = (
        "import os; from delugeserve.serving.fleet.status import StatusFile; StatusFile(); "
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False, env=os.environ)
    assert len(list(home.iterdir())) == 1
    assert find_servers() == []
    assert not list(home.iterdir())


def test_a_status_that_is_not_ours_is_passed_over(tmp_path):
    file = StatusFile()
    file.path.write_text("{")
    assert find_servers() == []
    file.write(make(tmp_path))
    values = json.loads(file.path.read_text())
    assert values["state"] == "serving"
    file.remove()


def test_a_folder_that_others_can_write_is_refused(home):
    home.mkdir(mode=0o777)
    home.chmod(0o777)
    with pytest.raises(UsageError, match="not a folder of this user alone"):
        StatusFile()
    assert find_servers() == []


def test_without_a_runtime_folder_it_is_a_temporary_one(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert status.runtime_folder().parent == tmp_path
