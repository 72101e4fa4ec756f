"""Where a run took place: versions, machine, git revision, command line."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from pathlib import Path

import lightning
import torch

from delugeserve._version import __version__
from delugeserve.system import hardware


def describe_environment(precision: str) -> dict[str, str]:
    """Describe what, besides its settings, decides a run's result and its speed.

    Args:
        precision: of the matrix products, as the run resolved it.

    Returns:
        Versions (``delugeserve``, ``torch``, ``lightning``, ``python``), ``machine``, ``gpu`` where
        torch sees one, ``precision``, ``revision`` where the package is a git checkout, and
        ``command``, the process's command line with whatever paths it names.
    """
    environment = {
        "delugeserve": __version__,
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "python": platform.python_version(),
        "machine": hardware.describe(),
        "precision": precision,
        "command": shlex.join(sys.orig_argv),
    }
    if torch.cuda.is_available():
        environment["gpu"] = torch.cuda.get_device_name()
    if revision := git_revision(Path(__file__).parents[1]):
        environment["revision"] = revision
    return environment


def git_revision(source: Path) -> str | None:
    """The commit that source files are of, with ``+changes`` if the checkout has any.

    Args:
        source: a package's folder.

    Returns:
        The commit's hash, 12 digits or more; None if git is missing or does not keep these files.
    """
    git = ["git", "-C", str(source)]
    try:
        # An installed package may lie in the checkout of something else, ignored by it.
        _run(*git, "ls-files", "--error-unmatch", "__init__.py")
        return _run(*git, "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+changes")
    except (OSError, subprocess.CalledProcessError):
        return None


def _run(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()
