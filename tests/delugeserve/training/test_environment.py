"""The git revision that a run records is that of the package's own checkout, or none."""

import subprocess

import pytest
import torch

from delugeserve.training.environment import describe_environment, git_revision


@pytest.fixture
def package(tmp_path):
    """A package ``ours`` in a checkout of its own, with one commit."""
    package = tmp_path / "ours"
    package.mkdir()
    (package / "__init__.py").touch()
    (tmp_path / ".gitignore").write_text("/venv\n")
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    return package


def test_the_commit_and_whether_it_was_changed(package):
    revision = git_revision(package)
    head = subprocess.check_output(["git", "-C", package, "rev-parse", "HEAD"], text=True)
    assert len(revision) >= 12
    assert head.startswith(revision)
    (package / "__init__.py").write_text("changed = True\n")
    assert git_revision(package) == f"{revision}+changes"


def test_no_revision_where_git_does_not_keep_the_package(package, tmp_path, monkeypatch):
    installed = tmp_path / "venv" / "ours"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    assert git_revision(installed) is None, "the checkout around it is another project's"
    monkeypatch.setenv("PATH", "")
    assert git_revision(package) is None, "there is no git"


def test_the_environment_is_text(monkeypatch):
    monkeypatch.setattr("sys.orig_argv", ["python", "-m", "delugeserve", "train", "a folder"])
    environment = describe_environment("bf16")
    assert environment["torch"] == torch.__version__
    assert environment["precision"] == "bf16"
    assert environment["command"] == "python -m delugeserve train 'a folder'"
    assert all(isinstance(value, str) and value for value in environment.values())
