"""Watching a replica: is it alive, does it still answer, how much memory does it use."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from delugeserve.serving import procfs
from delugeserve.serving.fleet.events import Event, Lost, Outgrown
from delugeserve.serving.fleet.release import Release
from delugeserve.serving.triton.inference import connect, smallest_inputs
from delugeserve.serving.triton.log import tidy
from delugeserve.serving.triton.server import TritonServer

_POLL = 0.1  # seconds
_AFTERMATH = 1.0  # seconds
_FAILED_PROBES = 3  # in a row, after which a model counts as broken
#: What an overloaded server answers; whether it is stuck is told by the time that it takes.
_BUSY = frozenset(
    {
        "StatusCode.UNAVAILABLE",
        "StatusCode.DEADLINE_EXCEEDED",
        "StatusCode.RESOURCE_EXHAUSTED",
        "StatusCode.CANCELLED",
    }
)


@dataclass(frozen=True)
class Watching:
    """How a replica is watched.

    Attributes:
        interval: seconds between two requests to each model.
        deadline: seconds after which a model hangs that has neither answered nor computed.
        memory_interval: seconds between two looks at the memory.
        memory_limit: bytes that the processes of a replica may use together; None for no limit.
    """

    interval: float = 2.0
    deadline: float = 3.0
    memory_interval: float = 5.0
    memory_limit: int | None = None


class HangDetector:
    """Tells a model that hangs from one that has much to do.

    A model hangs if a request has waited for the deadline, and in all that time its process has
    neither computed nor been ready to compute, and no other request was answered.

    Args:
        deadline: in seconds.
    """

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._ticks = -1
        self._progress_at = -math.inf

    def hangs(self, now: float, waiting_since: float | None, work: procfs.Work) -> bool:
        """Return whether the model hangs.

        Args:
            now: in seconds.
            waiting_since: when the oldest request without an answer was sent; None if there is
                none.
            work: of the model's process so far.
        """
        if waiting_since is None or work.running or work.ticks > self._ticks:
            self._progress_at = now
            self._ticks = work.ticks
            return False
        return now - max(self._progress_at, waiting_since) >= self._deadline


class ReplicaWatch:
    """Watches one replica in a thread of its own, until :meth:`stop`.

    Args:
        number: the replica's number.
        server: its process, whose models are loaded.
        release: what it serves.
        settings: how it is watched.
        post: receives :class:`Lost` or :class:`Outgrown`, at most one of each.

    Attributes:
        memory: bytes that its processes used together when last measured.
    """

    def __init__(
        self,
        number: int,
        server: TritonServer,
        release: Release,
        settings: Watching,
        post: Callable[[Event], None],
    ) -> None:
        self.memory = procfs.memory(server.session)
        self._number, self._server, self._settings = number, server, settings
        self._post = post
        self._stopped = threading.Event()
        self._probe_now = threading.Event()
        self._probes = [
            _Probe(server, model.name, settings.deadline + 2 * model.config.queue_delay_us / 1e6)
            for model in release.models
        ]
        self._suspended: set[int] = set()
        self._pid = next(iter(procfs.children(server.session, server.session)), 0)
        self._thread = threading.Thread(target=self._run, name=f"watch-{number}", daemon=True)
        self._thread.start()

    def probe(self) -> None:
        """Send a request to each model now."""
        self._probe_now.set()

    def stop(self) -> None:
        """Stop watching; return at once."""
        self._stopped.set()

    def _run(self) -> None:
        probe_at = memory_at = time.monotonic()
        outgrown = False
        with contextlib.closing(connect(self._server.grpc_url)) as client:
            while not self._stopped.wait(_POLL):
                now = time.monotonic()
                if self._probe_now.is_set() or now >= probe_at:
                    self._probe_now.clear()
                    probe_at = now + self._settings.interval
                    for probe in self._probes:
                        probe.send(client)
                reason = self._find_fault(now)
                if reason:
                    if not self._stopped.is_set():
                        self._post(Lost(self._number, reason))
                    return
                if now >= memory_at:
                    memory_at = now + self._settings.memory_interval
                    self.memory = procfs.memory(self._server.session)
                    limit = self._settings.memory_limit
                    if limit and self.memory > limit and not outgrown:
                        outgrown = True
                        self._post(Outgrown(self._number, describe_growth(self.memory, limit)))

    def _find_fault(self, now: float) -> str:
        """Return why the replica is lost; empty if it is not."""
        if not procfs.is_alive(self._pid):
            with contextlib.suppress(TimeoutError):
                self._server.wait(_AFTERMATH)  # until the guardian has its exit status
        if self._server.poll() is not None:
            failure = self._server.failure()
            return failure.problem if failure else "The server ended."
        suspended = set()
        for pid in procfs.session_members(self._server.session):
            if procfs.is_suspended(pid):
                suspended.add(pid)
        twice, self._suspended = suspended & self._suspended, suspended
        models = self._server.model_processes
        for pid in twice:
            what = f"The process of model '{models[pid]}'" if pid in models else "The server"
            return f"{what} was suspended by a signal."
        for pid, model in models.items():
            if not procfs.is_alive(pid):
                return f"The process of model '{model}' died."
        for probe in self._probes:
            if fault := probe.fault(now):
                return fault
        return ""


class _Probe:
    """Requests to one model of one replica."""

    def __init__(self, server: TritonServer, model: str, deadline: float) -> None:
        self._server, self._model, self._deadline = server, model, deadline
        # A model without a process of its own computes in the server's.
        own = [pid for pid, name in server.model_processes.items() if name == model]
        self._processes = own or procfs.session_members(server.session)
        self._detector = HangDetector(deadline)
        self._inputs: list[Any] | None = None
        self._sent_at: float | None = None
        self._failures = 0
        self._reason = ""

    def send(self, client: Any) -> None:
        """Send a request, unless one is on its way."""
        from tritonclient.utils import InferenceServerException

        if self._sent_at is not None:
            return
        self._sent_at = time.monotonic()
        try:
            if self._inputs is None:
                self._inputs = smallest_inputs(client, self._model, self._deadline)
            client.async_infer(self._model, self._inputs, self._receive)
        except InferenceServerException as error:
            self._receive(None, error)

    def fault(self, now: float) -> str:
        """Return what is wrong with the model; empty if nothing is known to be."""
        if self._failures >= _FAILED_PROBES:
            return f"Model '{self._model}' fails its requests: {self._reason}"
        work = procfs.Work(0, False)
        if self._sent_at is not None:
            work = procfs.work_of(self._processes)
        if self._detector.hangs(now, self._sent_at, work):
            return f"Model '{self._model}' hangs: no answer in {self._deadline:.0f} seconds."
        return ""

    def _receive(self, result: Any, error: Any) -> None:  # tritonclient passes them by name
        self._sent_at = None
        if error is None:
            self._failures = 0
        elif error.status() not in _BUSY:
            self._failures += 1
            self._reason = tidy(error.message() or "")


def describe_growth(used: int, limit: int) -> str:
    """Return a sentence about a replica that uses more memory than it may."""
    return f"It uses {used / 2**20:.0f} MiB of memory; the limit is {limit / 2**20:.0f} MiB."
