"""Check the Triton Inference Server: which one, its requirements, faults and stale memory."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

from delugeserve.doctor.faults import FAULTS, known_faults
from delugeserve.doctor.findings import Finding, Status
from delugeserve.errors import MissingExtraError, ServerError, UsageError
from delugeserve.runtimes import BACKENDS
from delugeserve.serving.front.installation import find_envoy, find_envoy_version
from delugeserve.serving.guardian import SHARED_MEMORY
from delugeserve.serving.private_folder import (
    FOLDER_PREFIX,
    find_temporary_folder,
    reason_against,
)
from delugeserve.serving.triton.installation import (
    MIN_GLIBC,
    find_libpython,
    find_tritonserver,
    find_version,
    is_wheel_installed,
)

_SCARCE_SHM = 32  # MiB: a few batches of large images


def check_server() -> Iterator[Finding]:
    """Check the server that 'delugeserve serve' would start."""
    try:
        installation = find_tritonserver()
    except MissingExtraError as error:
        yield _finding("Triton", "no server is installed", "absent", error.remedy)
        return
    except UsageError as error:
        # Without the wheel, this machine is not meant to serve.
        status: Status = "problem" if is_wheel_installed() else "absent"
        yield _finding("Triton", error.problem, status, error.remedy)
        return
    version = find_version(installation)
    yield _finding("Triton", f"{version or 'unknown version'}, {installation.executable}")
    if installation.stub is not None:
        yield _finding(
            "requirements",
            f"glibc {platform.libc_ver()[1]} ({'.'.join(map(str, MIN_GLIBC))} or later required), "
            f"shared libpython {find_libpython()}",
        )
    native = sorted(path.name for path in installation.backends.iterdir() if path.is_dir())
    own = [name for name in BACKENDS if name in own_backends() and BACKENDS[name].runs_here()]
    yield _finding(
        "backends", f"Triton's: {', '.join(native)}; ours: {', '.join(own) or 'none is installed'}"
    )
    yield _front()
    yield _temporary_folder()
    yield _shared_memory()
    yield _leftovers()
    yield from _faults(version)


def _front() -> Finding:
    """Check the Envoy that stands in front of the servers."""
    try:
        envoy = find_envoy()
        return _finding("Envoy", f"{find_envoy_version(envoy)}, {envoy}")
    except MissingExtraError as error:
        return _finding(
            "Envoy", "not installed; serve then needs --direct or --envoy", "absent", error.remedy
        )
    except UsageError as error:
        return _finding("Envoy", error.problem, "problem", error.remedy)


def own_backends() -> frozenset[str]:
    """Return our backends that 'delugeserve serve' could use here."""
    return frozenset(name for name, record in BACKENDS.items() if record.is_installed())


def native_backends() -> frozenset[str]:
    """Return the server's own backends, which take precedence over ours."""
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
            f"none is known of this version; {len(FAULTS)} are known of {', '.join(seen)}",
            "absent",
        )
    for fault in faults:
        yield Finding("known faults of this server", fault.subject, "ok", fault.text)


def _temporary_folder() -> Finding:
    """Check that a server's private folder can be created and run from."""
    try:
        place = find_temporary_folder()
    except ServerError as error:
        return _finding("temporary files", error.problem, "problem", error.remedy)
    if place == tempfile.gettempdir():
        return _finding("temporary files", f"in {place}")
    return _finding(
        "temporary files",
        f"in {place}, because {tempfile.gettempdir()} {reason_against(tempfile.gettempdir())}",
    )


def _shared_memory() -> Finding:
    """Check that the processes of models have room to exchange batches with the server."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError as error:
        return _finding(
            "shared memory",
            f"{SHARED_MEMORY} cannot be used ({error.strerror})",
            "problem",
            f"As root, mount it with: mount -t tmpfs -o size=1g tmpfs {SHARED_MEMORY}",
        )
    if not os.access(SHARED_MEMORY, os.W_OK) or status.f_flag & os.ST_RDONLY:
        return _finding(
            "shared memory",
            f"{SHARED_MEMORY} is not writable for this user",
            "problem",
            f"As root, run: mount -o remount,rw,mode=1777 {SHARED_MEMORY}",
        )
    free = status.f_bavail * status.f_frsize / 2**20
    amount = f"{free:.0f} MiB" if free < 1024 else f"{free / 1024:.1f} GiB"
    text = f"{amount} free in {SHARED_MEMORY}"
    if free < _SCARCE_SHM:
        return _finding(
            "shared memory",
            f"{text}: large batches may not fit",
            "warning",
            "Enlarge it: docker run --shm-size=1g, or as root: mount -o remount,size=1g "
            f"{SHARED_MEMORY}",
        )
    return _finding("shared memory", text)


def _leftovers() -> Finding:
    """Look for shared memory that has our name and is not mapped by any process of this user."""
    regions = []
    for path in Path(SHARED_MEMORY).glob(f"{FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError):  # it was removed just now
            status = path.stat()
            if status.st_uid == os.getuid():
                regions.append((str(path), status.st_size))
    mapped = _mapped_files() if regions else ""
    left = sorted((path, size) for path, size in regions if path not in mapped)
    if not left:
        return _finding("stale memory", f"no crashed server left files in {SHARED_MEMORY}")
    return _finding(
        "stale memory",
        f"crashed servers left {sum(size for _, size in left) / 2**20:.1f} MiB of shared memory in "
        f"{len(left)} regions",
        "warning",
        f"Remove them with: rm {' '.join(shlex.quote(path) for path, _ in left)}",
    )


def _mapped_files() -> str:
    """Return the memory maps of all processes that this user may look at."""
    texts = []
    for path in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):  # it ended, or is another user's
            texts.append(path.read_text(encoding="utf-8", errors="replace"))
    return "".join(texts)


def _finding(subject: str, text: str, status: Status = "ok", remedy: str | None = None) -> Finding:
    return Finding("server", subject, status, text, remedy)
