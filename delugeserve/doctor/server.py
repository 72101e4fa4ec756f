"""The Triton Inference Server: which one, what it needs, its faults, and what a dead one left."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from delugeserve.doctor.faults import FAULTS, known_faults
from delugeserve.doctor.findings import Finding, Status
from delugeserve.errors import MissingExtraError, UsageError
from delugeserve.serving.installation import (
    MIN_GLIBC,
    find_libpython,
    find_tritonserver,
    find_version,
    is_wheel_installed,
)
from delugeserve.serving.layout import FOLDER_PREFIX
from delugeserve.serving.own_backends import OWN_BACKENDS

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps it


def examine_server() -> Iterator[Finding]:
    """Find the server that 'delugeserve serve' would start, and say what is known of it."""
    try:
        installation = find_tritonserver()
    except MissingExtraError as error:
        yield _finding("Triton", "no server is installed", "absent", error.remedy)
        return
    except UsageError as error:
        # Someone who only asks a server elsewhere has not installed one, and lacks nothing.
        status: Status = "problem" if is_wheel_installed() else "absent"
        yield _finding("Triton", error.problem, status, error.remedy)
        return
    version = find_version(installation)
    yield _finding("Triton", f"{version or 'unknown version'}, {installation.executable}")
    if installation.stub is not None:
        yield _finding(
            "its needs",
            f"glibc {'.'.join(map(str, MIN_GLIBC))} or later: {platform.libc_ver()[1]}; "
            f"shared libpython: {find_libpython()}",
        )
    native = sorted(path.name for path in installation.backends.iterdir() if path.is_dir())
    yield _finding("its backends", f"{', '.join(native)}; of ours {', '.join(OWN_BACKENDS)}")
    yield _leftovers()
    yield from _faults(version)


def own_backends() -> frozenset[str]:
    """The backends of ours that 'delugeserve serve' could use here."""
    return frozenset(name for name, module in OWN_BACKENDS.items() if find_spec(module))


def native_backends() -> frozenset[str]:
    """The backends that the server here has of its own, which go before ours."""
    try:
        folders = find_tritonserver().backends.iterdir()
        return frozenset(path.name for path in folders if path.is_dir())
    except UsageError:
        return frozenset()


def _faults(version: str | None) -> Iterator[Finding]:
    faults = known_faults(version or "")
    if not faults:
        seen = sorted({version for fault in FAULTS for version in fault.versions})
        yield _finding(
            "faults",
            f"none is known of this version; {len(FAULTS)} are of {', '.join(seen)}",
            "absent",
        )
    for fault in faults:
        status: Status = "warning" if fault.advice else "ok"
        text = f"{fault.effect}; {fault.handled}"
        yield Finding("known faults of this server", fault.subject, status, text, fault.advice)


def _leftovers() -> Finding:
    """Shared memory that bears our name, and that no process of this user has in use."""
    try:
        regions = [
            path
            for path in _SHARED_MEMORY.glob(f"{FOLDER_PREFIX}*")
            if path.stat().st_uid == os.getuid()
        ]
    except (OSError, AttributeError):  # one went away, or there is no such system
        regions = []
    mapped = _mapped_files() if regions else ""
    left = sorted(path for path in regions if str(path) not in mapped)
    if not left:
        return _finding("shared memory", "nothing is left of dead servers")
    size = sum(path.stat().st_size for path in left if path.exists())
    return _finding(
        "shared memory",
        f"dead servers left {size / 2**20:.1f} MiB in {len(left)} regions",
        "warning",
        f"Remove them with: rm {' '.join(map(str, left))}",
    )


def _mapped_files() -> str:
    """What the processes of this machine have mapped, as far as we may know."""
    texts = []
    for path in Path("/proc").glob("[0-9]*/maps"):
        try:
            texts.append(path.read_text(encoding="utf-8", errors="replace"))
        except OSError:  # it ended, or is another user's
            continue
    return "".join(texts)


def _finding(subject: str, text: str, status: Status = "ok", remedy: str | None = None) -> Finding:
    return Finding("server", subject, status, text, remedy)
