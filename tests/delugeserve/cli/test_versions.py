"""versions, promote, rollback, remove, gc: what they print, as tables and as JSON."""

import json

import pytest

from delugeserve.artifacts.canary import Canary, read_canary
from delugeserve.artifacts.model_config import read_config
from delugeserve.artifacts.repository import version_numbers


@pytest.fixture
def command(run, repository, monkeypatch):
    """A command on the repository, with ``--json``: exit status and the JSON."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(repository))  # no server of the user's counts

    def command(*arguments):
        status, out, err = run(*arguments, "--repository", repository, "--json")
        return status, json.loads(out) if out else err

    return command


def served(repository):
    (number,) = read_config(repository / "net").versions
    return number


def test_versions_are_listed(command, run, repository, add_version):
    add_version(repository, 4, classes=("a", "b", "c"), companions=True)
    (repository / "net/2/manifest.json").write_text("{")
    status, rows = command("versions")
    assert status == 0
    assert [(row["model"], row["version"], row["served"]) for row in rows] == [
        ("net", 1, False),
        ("net", 2, False),
        ("net", 3, False),
        ("net", 4, True),
    ]
    assert [row["classes"] for row in rows] == [2, 2, 2, 3]
    assert rows[1]["fault"]
    assert rows[3]["created"].startswith("2026-01-01")
    assert rows[3]["bytes"] > rows[0]["bytes"]
    status, out, err = run("versions", "net", "--repository", repository)
    assert (status, len(out.splitlines())) == (0, 6)
    assert "delugeserve promote net 3 --repository" in err


def test_promote_and_roll_back(command, run, repository):
    status, done = command("promote", "net", 1, "--dry-run")
    assert (done["version"], done["before"], done["changed"]) == (1, 3, False)
    assert served(repository) == 3
    status, done = command("promote", "net", 1)
    assert (status, done["changed"], served(repository)) == (0, True, 1)
    assert done["changes"]["facts"]["max_batch_size"] == {"before": 32, "now": 8}
    status, done = command("rollback", "net", "--dry-run")
    assert (done["version"], served(repository)) == (3, 1)
    status, out, err = run("rollback", "net", "--repository", repository)
    assert (status, served(repository)) == (0, 3)
    assert "version 3 is served (before: 1)" in out
    assert "delugeserve serve --repository" in err


def test_a_canary(command, run, repository):
    status, done = command("promote", "net", 1, "--share", "5%")
    assert (status, done) == (0, {"model": "net", "version": 1, "share": 0.05})
    status, rows = command("versions")
    assert [row["share"] for row in rows] == [0.05, None, None]
    status, done = command("promote", "net")
    assert (done["version"], done["ended_canary"]["version"]) == (1, 1)
    run("promote", "net", 2, "--share", "2.5%", "--repository", repository)
    assert read_canary(repository) == Canary("net", 2, 0.025)
    status, out, _err = run("rollback", "net", "--repository", repository)
    assert "version 1 is served alone" in out
    assert read_canary(repository) is None


@pytest.mark.parametrize("share", ["5", "0.05", "x%", "0%", "100%"])
def test_what_is_no_share_is_refused(command, repository, share):
    status, _ = command("promote", "net", 1, f"--share={share}")
    assert status == 2
    assert read_canary(repository) is None


def test_remove_deletes_only_with_yes(command, repository):
    status, done = command("remove", "net", 1)
    assert (status, len(done["would_remove"]), done["removed"]) == (0, 1, [])
    assert version_numbers(repository / "net") == [1, 2, 3]
    status, done = command("remove", "net", 1, "--yes")
    assert [row["version"] for row in done["removed"]] == [1]
    assert version_numbers(repository / "net") == [2, 3]
    assert command("remove", "net", 3, "--yes")[0] == 2
    assert command("remove", "net", "--yes")[0] == 0
    assert not (repository / "net").exists()


def test_gc_deletes_only_with_yes(command, repository, add_version):
    for number in (4, 5, 6):
        add_version(repository, number)
    assert [row["version"] for row in command("gc")[1]["would_remove"]] == [1, 2, 3]
    done = command("gc", "--keep", 1, "--yes")[1]
    # Version 5 is what a rollback would serve.
    assert [row["version"] for row in done["removed"]] == [1, 2, 3, 4]
    assert version_numbers(repository / "net") == [5, 6]


def test_an_unknown_model_has_a_suggestion(command):
    for arguments in (("promote", "nett", 1), ("rollback", "nett"), ("versions", "nett")):
        status, err = command(*arguments)
        assert status == 2
        assert "Did you mean 'net'?" in err
