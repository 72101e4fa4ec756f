"""Start a peer on loopback, wait until it answers a real request, and end all of its processes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.peers.interface import APPS, GRPC, HERE, Form, Launch, Peer
from benchmarks.peers.workload import TOLERANCE, Workload
from delugeserve.runtimes import openvino_engine
from delugeserve.serving import ports
from delugeserve.serving.guarded import GuardedProcess
from delugeserve.serving.private_folder import PrivateFolder

_STARTUP = 120.0  # seconds
_GRACE = 8.0  # seconds from SIGTERM to SIGKILL
# Of this process's environment; they would set the peers' threads, or lead them to a proxy.
_REMOVED = ("OMP_", "MKL_", "OPENBLAS_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "PYTHONPATH")


class StartError(Exception):
    """A peer did not start, or its first answer was wrong."""


@dataclass(frozen=True)
class Running:
    """A peer that has answered.

    Attributes:
        url: its address for the workload.
        seconds: how long it took to start.
        process: the guardian, which has started its processes.
    """

    url: str
    seconds: float
    process: int

    def memory(self) -> int:
        """Return the memory of its processes in bytes; what they share counts once."""
        total = 0
        for one in _family(self.process):
            with contextlib.suppress(psutil.Error):
                total += one.memory_full_info().pss
        return total

    def cpu_seconds(self) -> float:
        """Return the CPU time of its processes so far."""
        total = 0.0
        for one in _family(self.process):
            with contextlib.suppress(psutil.Error):
                times = one.cpu_times()
                total += times.user + times.system
        return total


@contextlib.contextmanager
def serve(peer: Peer, launch: Launch, workload: Workload, log: Path) -> Iterator[Running]:
    """Run a peer for one workload.

    Args:
        peer: what to run.
        launch: with what.
        workload: the workload that it must answer.
        log: file for its output.

    Raises:
        StartError: it does not start; the end of its output says why.
    """
    settings = launch.folder / "settings.json"
    settings.write_text(json.dumps(_settings(launch, workload)), encoding="utf-8")
    # Alone: beside it are modules that have the names of runtimes.
    shutil.copy(openvino_engine.__file__, launch.folder)
    started = time.monotonic()
    process = GuardedProcess(
        peer.command(launch),
        PrivateFolder.create(),
        environment(peer, launch, settings),
        log.open("a", encoding="utf-8"),  # closed with the process's output
        _GRACE,
    )
    family: set[psutil.Process] = set()
    try:
        _wait(peer, process, launch, workload)
        family |= set(_family(process.pid))
        http, grpc = launch.http_port, launch.grpc_port
        url = f"127.0.0.1:{grpc}" if workload.name == GRPC else f"http://127.0.0.1:{http}"
        yield Running(url, time.monotonic() - started, process.pid)
    finally:
        family |= set(_family(process.pid))
        process.terminate()
        with contextlib.suppress(TimeoutError):
            process.wait(_GRACE)
        # Also those that have left the session; they would keep the pipe for the output open.
        end(family)
        process.stop()


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Make a temporary folder for a peer's files."""
    # Ray and its HAProxy put sockets into it, whose paths may have 97 characters.
    place = min(
        (one for one in (tempfile.gettempdir(), "/tmp") if os.access(one, os.W_OK)), key=len
    )
    name = tempfile.TemporaryDirectory(prefix="peer-", dir=place, ignore_cleanup_errors=True)
    with name as path:
        yield Path(path)


def free_ports() -> tuple[int, int, int]:
    """Return free ports for HTTP, gRPC and metrics."""
    found = ports.claim(ports.LOOPBACK, {"http": 0, "grpc": 0, "metrics": 0})
    return found["http"] or 0, found["grpc"] or 0, found["metrics"] or 0


def environment(peer: Peer, launch: Launch, settings: Path) -> dict[str, str]:
    """Return the environment of a peer: this one without what would change its speed."""
    kept = {key: value for key, value in os.environ.items() if not key.upper().startswith(_REMOVED)}
    paths = [str(launch.folder), str(APPS), str(HERE.parents[1] / "clients")]
    if peer.installed:  # this very environment, with its path
        paths += [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "PEER_SETTINGS": str(settings),
        "TMPDIR": str(launch.folder),
        **peer.environment(launch),
    }


def end(family: set[psutil.Process]) -> None:
    """Kill the processes that are left; psutil takes no other process for one of these."""
    for one in family:
        with contextlib.suppress(psutil.Error):
            one.kill()
    psutil.wait_procs(family, timeout=10)


def _family(pid: int) -> list[psutil.Process]:
    """Return the descendants of a process."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def _settings(launch: Launch, workload: Workload) -> dict[str, object]:
    model, batching = launch.model, launch.batching
    return {
        "artefact": str(model.artefact),
        "name": model.name,
        "precision": model.precision,
        "threads": batching.threads,
        "plain": batching.plain,
        "workers": batching.workers,
        "shape": model.shape,
        "preprocessing": asdict(model.preprocessing),
        "labels": model.labels,
        "top_k": model.top_k,
        "batch": batching.size,
        "delay": batching.delay,
        "port": launch.http_port,
        "other_ports": [launch.grpc_port, launch.metrics_port],
        "workload": workload.name,
    }


def _wait(peer: Peer, process: GuardedProcess, launch: Launch, workload: Workload) -> None:
    """Wait for the first answer, and compare it."""
    form = peer.http_form(workload.name)
    deadline = time.monotonic() + _STARTUP
    reason = "no answer"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StartError(f"{peer.title} ended:\n" + "\n".join(process.lines()[-20:]))
        try:
            answer = ask(launch, form, workload.probe)
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            reason = str(error) or type(error).__name__
            time.sleep(0.1)
            continue
        found = np.frombuffer(answer, np.float32)
        if found.shape == workload.probe_answer.shape and np.allclose(
            found, workload.probe_answer, 0, TOLERANCE
        ):
            return
        raise StartError(f"{peer.title} answers {found}, not {workload.probe_answer}")
    last = "\n".join(process.lines()[-20:])
    raise StartError(f"{peer.title} did not answer within {_STARTUP:g} s: {reason}\n{last}")


def ask(launch: Launch, form: Form, image: bytes) -> bytes:
    """Send one image over a connection of its own; return the probabilities.

    Raises:
        ValueError: the answer has another status than 200, or cannot be read.
    """
    connection = http.client.HTTPConnection("127.0.0.1", launch.http_port, timeout=10)
    with contextlib.closing(connection):
        model = launch.model
        body = form.body(model, image)
        connection.request("POST", form.url(model), body, form.all_headers(model))
        answer = connection.getresponse()
        content = answer.read()
    if answer.status != 200:
        raise ValueError(f"HTTP {answer.status}: {content[:200].decode('utf-8', 'replace')}")
    return form.read(content, launch.model.classes)
