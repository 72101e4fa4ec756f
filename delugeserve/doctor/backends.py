"""Which backends can be exported for here, and in which precisions."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec

from delugeserve.doctor.findings import Finding
from delugeserve.runtimes import BACKENDS
from delugeserve.runtimes.base import Backend

_TIMEOUT = 120.0  # seconds; the first import after an installation reads a few hundred MB
_IMPORT = "import {0}; print({0}.__version__)"


@dataclass(frozen=True)
class Runtime:
    """What came of importing a runtime: its version, or why it has none."""

    version: str | None
    reason: str = ""


def examine_backends() -> Iterator[Finding]:
    """Import every backend's runtime, each in a process of its own, which may crash or hang."""
    installed = [backend for backend in BACKENDS.values() if find_spec(backend.module)]
    with ThreadPoolExecutor(len(BACKENDS)) as pool:
        runtimes = dict(
            zip(
                [backend.name for backend in installed],
                pool.map(lambda backend: import_runtime(backend.module), installed),
                strict=True,
            )
        )
    for name, backend in BACKENDS.items():
        yield _examine(backend, runtimes.get(name))


def import_runtime(module: str) -> Runtime:
    """Import a module in another process and ask for its version."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT.format(module)],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Runtime(None, f"importing it does not end within {_TIMEOUT:.0f} s")
    if done.returncode < 0:
        return Runtime(None, f"importing it ends in {signal.Signals(-done.returncode).name}")
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    last = lines[-1] if lines else "it says nothing"
    return Runtime(last) if done.returncode == 0 else Runtime(None, last)


def _examine(backend: Backend, runtime: Runtime | None) -> Finding:
    if runtime is None:
        return Finding(
            "backends",
            backend.name,
            "absent",
            f"{backend.title} is not installed",
            f"Install it with: pip install 'delugeserve[{backend.extra}]'",
        )
    if runtime.version is None:
        return Finding(
            "backends",
            backend.name,
            "problem",
            f"{backend.title} is installed and cannot be imported: {runtime.reason}",
            f"Install it again with: pip install --force-reinstall 'delugeserve[{backend.extra}]'",
        )
    # Some runtimes add their build to it.
    title = f"{backend.title} {runtime.version.partition('-')[0]}"
    precisions = ", ".join(sorted(backend.precisions))
    if not backend.builds_here():
        text = f"{title} cannot build or run here: no NVIDIA GPU"
        return Finding("backends", backend.name, "absent", text)
    if not backend.runs_here():
        text = f"{title}, in {precisions}; builds here, and runs where there is an NVIDIA GPU"
        return Finding("backends", backend.name, "ok", text)
    missing = [module for module in backend.bindings if not _is_installed(module)]
    if missing:
        return Finding(
            "backends",
            backend.name,
            "problem",
            f"{title} builds here, and cannot run without {', '.join(missing)}",
            f"Install it with: pip install 'delugeserve[{backend.extra}]'",
        )
    if len(backend.precisions) > 1:
        precisions += f", of which {backend.best_precision()} is best here"
    return Finding("backends", backend.name, "ok", f"{title}, in {precisions}")


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it is in
        return False
