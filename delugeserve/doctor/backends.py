"""Which backends this machine can export for, and in which precisions."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from delugeserve.doctor.findings import Finding
from delugeserve.runtimes import BACKENDS
from delugeserve.runtimes.base import Backend

_TIMEOUT = 120.0  # seconds; the first import after an installation reads a few hundred MB
_IMPORT = "import {0}; print({0}.__version__)"


@dataclass(frozen=True)
class Runtime:
    """The result of importing a runtime.

    Attributes:
        version: its version; None if it cannot be imported.
        reason: why it cannot be imported.
    """

    version: str | None
    reason: str = ""


def check_backends() -> Iterator[Finding]:
    """Import every backend's runtime, each in a separate process, as it may crash or hang."""
    installed = [backend for backend in BACKENDS.values() if backend.is_installed()]
    with ThreadPoolExecutor(len(BACKENDS)) as pool:
        runtimes = dict(
            zip(
                [backend.name for backend in installed],
                pool.map(lambda backend: import_runtime(backend.module), installed),
                strict=True,
            )
        )
    for name, backend in BACKENDS.items():
        yield check_backend(backend, runtimes.get(name))


def import_runtime(module: str) -> Runtime:
    """Import a module in a separate process, and return its version."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT.format(module)],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Runtime(None, f"its import did not finish within {_TIMEOUT:.0f} s")
    if done.returncode < 0:
        return Runtime(None, f"its import was killed by {signal.Signals(-done.returncode).name}")
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    last = lines[-1] if lines else "no error message"
    return Runtime(last) if done.returncode == 0 else Runtime(None, last)


def check_backend(backend: Backend, runtime: Runtime | None) -> Finding:
    """Check one backend.

    Args:
        backend: its record.
        runtime: the result of importing its module; None if that is not installed.
    """
    if runtime is None and (lacking := backend.missing_to_run()):
        text = f"{backend.title} is not installed; it needs {lacking}"
        return Finding("backends", backend.name, "absent", text)
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
            f"{backend.title} is installed but cannot be imported: {runtime.reason}",
            f"Reinstall it with: pip install --force-reinstall --no-deps {backend.requirement()}",
        )
    # Some runtimes add their build to the version.
    title = f"{backend.title} {runtime.version.partition('-')[0]}"
    precisions = ", ".join(sorted(backend.precisions))
    if lacking := backend.missing_to_build():
        text = f"{title} cannot build or run here: it needs {lacking}"
        return Finding("backends", backend.name, "absent", text)
    if lacking := backend.missing_to_run():
        text = f"{title}, in {precisions}; it builds plans here; running them needs {lacking}"
        return Finding("backends", backend.name, "ok", text)
    missing = backend.missing_bindings()
    if missing:
        return Finding(
            "backends",
            backend.name,
            "problem",
            f"{title} builds here, but running needs {', '.join(missing)}",
            f"Install it with: pip install 'delugeserve[{backend.extra}]'",
        )
    if len(backend.precisions) > 1:
        precisions += f"; {backend.best_precision()} is the fastest here"
    return Finding("backends", backend.name, "ok", f"{title}, in {precisions}")
