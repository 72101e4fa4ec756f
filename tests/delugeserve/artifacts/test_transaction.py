"""Transactions: every change or none, whenever the process is killed."""

import contextlib
import json
import os
import shutil
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delugeserve.artifacts import transaction as module
from delugeserve.artifacts.transaction import (
    LOCK,
    RECORD,
    Move,
    Transaction,
    commit,
    lock_for_reading,
    lock_repository,
    relative,
)
from delugeserve.errors import RepositoryError


def content(folder):
    """All files below a folder but the lock and the record."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (LOCK, RECORD) and not path.name.startswith(".new-")
    }


def prepare(folder):
    """A repository of two models, and a transaction that changes both."""
    repository, staged = folder / "repository", folder / ".staging"
    for name in ("a", "b", "old"):
        (repository / name).mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(f"{name} 1")
    (repository / "note").write_text("n")
    staged.mkdir()
    (staged / "model").write_text("weights")
    return repository, Transaction(
        moves=(
            Move(relative(repository, staged), relative(repository, repository / "a/2")),
            Move("old", "kept"),
        ),
        files={"a/config.pbtxt": "a 2", "b/config.pbtxt": "b 2", "note": None, "new": "x"},
    )


AFTER = {
    "a/2/model": "weights",
    "a/config.pbtxt": "a 2",
    "b/config.pbtxt": "b 2",
    "kept/config.pbtxt": "old 1",
    "new": "x",
}


@settings(max_examples=15)
@given(kills=st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=4))
def test_all_changes_are_made_or_none(tmp_path_factory, steps, kills):
    """The process is killed, and then those that finish its work are killed as well."""
    repository, transaction = prepare(tmp_path_factory.mktemp("killed"))
    before = content(repository)
    (first, late), *later = kills
    with (
        steps(first, late=late) as killed,
        contextlib.suppress(steps.Killed),
        lock_repository(repository),
    ):
        commit(repository, transaction)
    committed = not killed.dead or (repository / RECORD).exists() or content(repository) == AFTER
    for number, late in later:
        with (
            steps(number, late=late),
            contextlib.suppress(steps.Killed),
            lock_repository(repository),
        ):
            pass
    with lock_repository(repository):
        assert content(repository) == (AFTER if committed else before)
    assert not (repository / RECORD).exists()


def test_the_commit_is_one_rename(tmp_path, steps):
    for late in (False, True):
        repository, transaction = prepare(tmp_path / str(late))
        with steps(1, late=late), pytest.raises(steps.Killed):
            commit(repository, transaction)
        assert (repository / RECORD).exists() == late
        with lock_repository(repository):
            assert (content(repository) == AFTER) == late


def test_a_file_keeps_its_permissions(tmp_path):
    repository, transaction = prepare(tmp_path)
    (repository / "b/config.pbtxt").chmod(0o640)
    commit(repository, transaction)
    assert (repository / "b/config.pbtxt").stat().st_mode & 0o777 == 0o640


def test_paths_start_at_the_folder_that_a_link_points_to(tmp_path):
    (tmp_path / "disk/deep").mkdir(parents=True)
    repository, transaction = prepare(tmp_path / "disk/deep")
    link = tmp_path / "link"
    link.symlink_to(repository)
    moves = (
        Move(relative(link, repository.parent / ".staging"), relative(link, link / "a/2")),
        transaction.moves[1],
    )
    commit(link, Transaction(moves, transaction.files))
    assert content(repository) == AFTER


def test_a_transaction_whose_files_are_gone_is_dropped(tmp_path, steps):
    repository, transaction = prepare(tmp_path)
    with steps(1, late=True), pytest.raises(steps.Killed):
        commit(repository, transaction)
    before = content(repository)
    shutil.rmtree(tmp_path / ".staging")
    with lock_repository(repository):
        assert content(repository) == before
    assert not (repository / RECORD).exists()


def test_a_full_disk_changes_nothing(tmp_path, monkeypatch):
    repository, transaction = prepare(tmp_path)
    before, written = content(repository), []

    def write(path, text):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(path)
        real(path, text)

    real = module._write
    monkeypatch.setattr(module, "_write", write)
    with pytest.raises(OSError, match="No space left"):
        commit(repository, transaction)
    assert content(repository) == before
    assert not list(repository.rglob(".new-*"))
    assert not (repository / RECORD).exists()


@pytest.mark.parametrize("text", ["{", json.dumps({"moves": 3})])
def test_a_damaged_record_is_named(tmp_path, text):
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(RepositoryError) as caught, lock_repository(tmp_path):
        pass
    assert caught.value.path == tmp_path / RECORD


def test_a_reader_that_cannot_write_does_not_see_half_a_change(tmp_path, steps, monkeypatch):
    repository, transaction = prepare(tmp_path)
    with lock_repository(repository):
        pass
    real = os.open

    def read_only(path, flags, *args, **options):
        if flags & (os.O_RDWR | os.O_WRONLY):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, *args, **options)

    def reader():
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", read_only)
            with lock_for_reading(repository):
                return content(repository)

    assert reader()["b/config.pbtxt"] == "b 1"
    with steps(3), pytest.raises(steps.Killed):
        commit(repository, transaction)
    with pytest.raises(RepositoryError):
        reader()
    with lock_for_reading(repository):  # as a user who can write, it is finished
        assert content(repository) == AFTER
    assert reader() == AFTER


def test_a_lock_that_is_not_released_is_an_error(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "_SAID_AFTER", 0.01)
    monkeypatch.setattr(module, "_LONGEST_WAIT", 0.05)
    caplog.set_level("INFO")
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from delugeserve.artifacts.transaction import lock_repository\n"
        "with lock_repository(Path(sys.argv[1])):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        for lock in (lock_repository, lock_for_reading):
            with pytest.raises(RepositoryError) as caught, lock(tmp_path):
                pass
            assert caught.value.path == tmp_path
        other.stdin.close()
        assert other.wait() == 0
    assert "Waiting" in caplog.text
    with lock_repository(tmp_path):
        pass
