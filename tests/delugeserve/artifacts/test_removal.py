"""Removing models and versions that are not served."""

import contextlib
import itertools

import pytest

from delugeserve.artifacts.canary import read_canary
from delugeserve.artifacts.promotion import promote, rollback, set_canary
from delugeserve.artifacts.publishing import staging
from delugeserve.artifacts.removal import collect, plan_gc, plan_removal, remove
from delugeserve.artifacts.repository import version_numbers
from delugeserve.errors import RepositoryError, UnknownNameError


def versions(repository, name="net"):
    return version_numbers(repository / name)


def test_a_version_is_removed(repository):
    plan = plan_removal(repository, "net", 1)
    assert plan.bytes > 0
    assert versions(repository) == [1, 2, 3]
    assert remove(repository, "net", 1) == plan
    assert versions(repository) == [2, 3]
    assert [path.name for path in repository.parent.glob(f".{repository.name}*")] == []


def test_what_is_served_or_the_canary_stays(repository):
    set_canary(repository, "net", 2, 0.05)
    for number, remedy in ((3, "promote net 2"), (2, "rollback net"), (7, "1, 2, 3")):
        with pytest.raises(RepositoryError) as caught:
            remove(repository, "net", number)
        assert remedy in caught.value.remedy
    with pytest.raises(UnknownNameError):
        remove(repository, "nets")
    assert versions(repository) == [1, 2, 3]


def test_what_a_running_server_serves_stays(repository):
    in_use = {("net", 1), ("other", 2)}
    for arguments in ((1,), ()):
        with pytest.raises(RepositoryError):
            remove(repository, "net", *arguments, in_use=in_use)
    assert collect(repository, 1, in_use) == ()
    assert remove(repository, "net", 2, in_use).version == 2


def test_every_version_of_a_policy_of_a_person_stays(repository):
    path = repository / "net/config.pbtxt"
    path.write_text(path.read_text().replace("specific {\n    versions: 3\n  }", "all { }"))
    assert collect(repository, 1) == ()
    with pytest.raises(RepositoryError):
        remove(repository, "net", 1)


def test_a_model_is_removed_with_its_companions_and_its_canary(tmp_path, add_version):
    repository = tmp_path / "repository"
    add_version(repository, 1, companions=True)
    add_version(repository, 2, companions=True)
    set_canary(repository, "net", 1, 0.05)
    assert [folder.name for folder in remove(repository, "net").folders] == [
        "net_image",
        "net_decode",
        "net",
    ]
    assert [path.name for path in repository.iterdir()] == [".lock"]
    assert read_canary(repository) is None


def test_companions_lose_the_same_version(tmp_path, add_version):
    add_version(tmp_path, 1, companions=True)
    add_version(tmp_path, 2, companions=True)
    remove(tmp_path, "net", 1)
    assert [versions(tmp_path, name) for name in ("net", "net_decode", "net_image")] == [[2]] * 3
    with pytest.raises(RepositoryError) as caught:
        remove(tmp_path, "net", 2)
    assert "delugeserve remove net" in caught.value.remedy
    with pytest.raises(RepositoryError):
        remove(tmp_path, "net_image", 2)


def test_old_versions_are_collected_but_none_that_may_be_needed(repository, add_version):
    for number in (4, 5, 6):
        add_version(repository, number)
    promote(repository, "net", 2)
    promote(repository, "net", 4)
    set_canary(repository, "net", 3, 0.05)
    assert [plan.version for plan in plan_gc(repository, 1)] == [1, 5]
    assert [plan.version for plan in collect(repository, 1)] == [1, 5]
    assert versions(repository) == [2, 3, 4, 6]
    rollback(repository, "net")  # ends the canary
    assert rollback(repository, "net").version == 2
    assert collect(repository, 9) == ()


def test_a_kill_removes_all_folders_or_none(tmp_path, add_version, steps):
    for fatal in itertools.count(1):
        repository = tmp_path / str(fatal) / "repository"
        add_version(repository, 1, companions=True)
        add_version(repository, 2, companions=True)
        with steps(fatal) as killed, contextlib.suppress(steps.Killed):
            remove(repository, "net", 1)
        if not killed.dead:
            break
        with staging(repository):  # finishes it, and sweeps
            found = {
                tuple(versions(repository, name)) for name in ("net", "net_decode", "net_image")
            }
        assert len(found) == 1
        assert [path.name for path in repository.parent.iterdir()] == ["repository"]
    assert fatal > 3


def test_an_interrupted_removal_is_finished_though_its_folder_is_gone(repository, monkeypatch):
    from delugeserve.artifacts import transaction

    def interrupt(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(transaction, "_apply", interrupt)
        with pytest.raises(KeyboardInterrupt):
            remove(repository, "net", 1)
    assert versions(repository) == [1, 2, 3]
    with staging(repository):
        assert versions(repository) == [2, 3]
