"""Find a tritonserver on this machine, and check that the machine can run it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from delugeserve.errors import MissingExtraError, UsageError

WHEEL = "nvidia-pytriton"
MIN_GLIBC = (2, 35)  # of the wheel's server
# The wheel's metadata does not state the server's version; these were read from its start-up log.
_SERVER_VERSIONS = {"0.7.0": "2.51.0"}
_USE_CONTAINER = (
    "Run delugeserve in NVIDIA's Triton container, with --tritonserver "
    "/opt/tritonserver/bin/tritonserver."
)


@dataclass(frozen=True)
class TritonInstallation:
    """A tritonserver on this machine.

    Attributes:
        executable: the server program.
        backends: folder with one folder per backend.
        stub: the program that runs Python models; None where it is in ``backends/python``.
        libraries: folder of shared libraries to add to the search path; None if none is needed.
    """

    executable: Path
    backends: Path
    stub: Path | None = None
    libraries: Path | None = None

    @property
    def caches(self) -> Path:
        """Folder with the server's response caches; it may not exist."""
        return self.backends.parent / "caches"


def find_tritonserver(executable: Path | None = None) -> TritonInstallation:
    """Return the server given, else the installed wheel's, else the one on PATH.

    Raises:
        UsageError: the server given does not exist, or this machine cannot run the wheel's.
        MissingExtraError: there is no server.
    """
    wheel = _wheel_folder()
    if executable is not None:
        found = shutil.which(executable)
        if not found:
            raise UsageError(
                f"There is no executable file '{executable}'.",
                "Give the path of the server, such as /opt/tritonserver/bin/tritonserver.",
            )
        if wheel is None or Path(found).resolve() != (wheel / "bin" / "tritonserver").resolve():
            return _external(Path(found))
    if wheel is not None:
        return _from_wheel(wheel)
    found = shutil.which("tritonserver")
    if found:
        return _external(Path(found))
    check_machine()
    raise MissingExtraError(WHEEL, "server")


def find_version(installation: TritonInstallation) -> str | None:
    """Return a server's version, such as ``2.51.0``, without starting it; None if unknown."""
    if installation.stub is not None:
        return _SERVER_VERSIONS.get(importlib.metadata.version(WHEEL))
    try:  # as in NVIDIA's container
        text = (installation.executable.parents[1] / "TRITON_VERSION").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        text = os.environ.get("TRITON_SERVER_VERSION", "")
    return text.strip() or None


def is_wheel_installed() -> bool:
    """Return whether the wheel with the server is installed."""
    try:
        importlib.metadata.distribution(WHEEL)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def check_machine() -> None:
    """Raise a :class:`UsageError` if this machine cannot run the wheel's server."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        raise UsageError(
            f"The server runs on x86-64 Linux, not on {machine} {system}.", _USE_CONTAINER
        )
    libc, version = platform.libc_ver()
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if libc != "glibc" or numbers < MIN_GLIBC:
        found = f"{libc} {version}" if libc else "another libc"
        raise UsageError(
            f"The server needs glibc 2.35 or later, but this machine has {found}.", _USE_CONTAINER
        )
    if find_libpython() is None:
        raise UsageError(
            f"The server needs a shared libpython{python_version()}, but the Python at "
            f"{sys.base_prefix} was built without one.",
            "Use your distribution's Python with its libpython package, or a Python configured "
            "with --enable-shared.",
        )


def find_libpython() -> Path | None:
    """Return the running Python's shared library; None if it was built without one."""
    name = f"libpython{python_version()}.so.1.0"
    folders = [sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib"]
    multiarch = sysconfig.get_config_var("MULTIARCH")
    if multiarch:
        folders += [f"/usr/lib/{multiarch}", f"/lib/{multiarch}"]
    for folder in folders:
        if folder and (Path(folder) / name).is_file():
            return Path(folder) / name
    return None


def python_version() -> str:
    """Return the running Python's version, such as ``3.11``."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def embedded_python(backends: Path) -> str | None:
    """Return the Python version that the stub in ``backends/python`` was linked with."""
    try:
        stub = (backends / "python" / "triton_python_backend_stub").read_bytes()
    except OSError:
        return None
    match = re.search(rb"libpython(3\.\d+)\.so", stub)
    return match[1].decode() if match else None


def _wheel_folder() -> Path | None:
    """Return the wheel's ``tritonserver`` folder; the package itself is never imported."""
    if not is_wheel_installed():
        return None
    spec = find_spec("pytriton")
    for place in (spec.submodule_search_locations if spec else None) or ():
        files = Path(place) / "tritonserver"
        if (files / "bin" / "tritonserver").is_file():
            return files
    return None


def _from_wheel(files: Path) -> TritonInstallation:
    check_machine()
    stub = files / f"python_backend_stubs/{python_version()}/triton_python_backend_stub"
    if not stub.is_file():
        raise UsageError(
            f"The installed {WHEEL} does not support Python {python_version()}.",
            "Use Python 3.10 to 3.13.",
        )
    return TritonInstallation(
        files / "bin" / "tritonserver",
        files / "backends",
        stub,
        files.parents[1] / "nvidia_pytriton.libs",
    )


def _external(executable: Path) -> TritonInstallation:
    """Return a server laid out as in NVIDIA's container."""
    real = executable.resolve()
    for backends in (real.parents[1] / "backends", Path("/opt/tritonserver/backends")):
        if backends.is_dir():
            return TritonInstallation(real, backends)
    raise UsageError(
        f"'{executable}' has no backends folder: {real.parents[1] / 'backends'} does not exist.",
        "Give the path of a complete installation's server, such as "
        "/opt/tritonserver/bin/tritonserver.",
    )
