"""Virtual environments of the peers, made once and kept in a cache folder."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.interface import REQUIREMENTS, Peer

_log = logging.getLogger(__name__)
_COMPLETE = "complete"


class InstallError(Exception):
    """pip could not install a peer."""


def default_cache() -> Path:
    """Return the folder for environments, as the XDG base directory specification has it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "delugeserve" / "peers"


def find_python(peer: Peer, cache: Path) -> Path:
    """Return the interpreter for a peer, and install the peer first if need be.

    An environment belongs to the text of its requirements and to the Python that made it: another
    text gets another environment.

    Raises:
        InstallError: pip failed; the end of its output says why.
    """
    if peer.installed:
        return Path(sys.executable)
    requirements = REQUIREMENTS / f"{peer.name}.txt"
    folder = cache / f"{peer.name}-{_digest(requirements)}"
    python = folder / "bin" / "python"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{peer.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / _COMPLETE).exists():
            _log.info("installing %s into %s", peer.title, folder)
            shutil.rmtree(folder, ignore_errors=True)
            _run([sys.executable, "-m", "venv", str(folder)])
            _run([str(python), "-m", "pip", "install", "-q", "-r", str(requirements)])
            (folder / _COMPLETE).touch()
    return python


def find_version(peer: Peer, python: Path) -> str:
    """Return the version of a peer's package in its environment."""
    code = f"import importlib.metadata as m; print(m.version({peer.distribution!r}))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _digest(requirements: Path) -> str:
    text = requirements.read_bytes() + sys.version.encode()
    return hashlib.sha256(text).hexdigest()[:12]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
        raise InstallError(f"{' '.join(command)} ended with status {done.returncode}:\n{last}")
