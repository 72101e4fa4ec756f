"""One running tritonserver: start it, watch it, stop it, leave nothing behind."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from delugeserve.artifacts.repository import StoredModel
from delugeserve.errors import PortError, ServerError
from delugeserve.serving import ports, procfs
from delugeserve.serving.guarded import GRACE, GuardedProcess
from delugeserve.serving.placement import EVERYWHERE, Placement
from delugeserve.serving.triton import diagnosis, log
from delugeserve.serving.triton.installation import TritonInstallation
from delugeserve.serving.triton.launch import Endpoints, Launch, prepare

_POLL = 0.05  # seconds
_IDLE_SPAN = 0.4  # seconds without work after which the server counts as drained
_WATCH_INTERVAL = 1.0  # seconds
_AFTERMATH = 1.0  # seconds a dying server may outlive its models


def start_tritonserver(
    installation: TritonInstallation,
    models: Sequence[StoredModel],
    endpoints: Endpoints,
    log_file: TextIO | None = None,
    place: Callable[[Path], None] | None = None,
    servers: int = 1,
    placement: Placement = EVERYWHERE,
) -> TritonServer:
    """Start one server process for a set of models, and return its handle.

    The server is not ready when this returns; see
    :func:`delugeserve.serving.triton.readiness.wait_until_ready`. Whoever gets the handle must call
    :meth:`TritonServer.stop`. If this process is killed, the server stops by itself.

    Args:
        installation: the server to run.
        models: the models to serve, which may come from one repository only.
        endpoints: where to listen.
        log_file: an open file that gets the server's log, and is closed at its end.
        place: writes the models into the folder given; None links them to where they are stored.
        servers: number of servers that answer side by side, and share the cores.
        placement: the part of the machine that it runs on.

    Raises:
        MissingExtraError: the runtime of a model's backend is not installed.
        MissingDeviceError: a model is a plan for a GPU, and there is none.
        PlanError: a model is a plan for another GPU or another version of its runtime.
        ServerError: a model needs a backend that the server does not have, or no temporary folder
            suits.
    """
    with contextlib.ExitStack() as on_error:
        if log_file:
            on_error.callback(log_file.close)
        launch = prepare(installation, models, endpoints, place, servers, placement)
        on_error.callback(launch.folder.remove)
        with placement.on_cores():
            server = TritonServer(launch, log_file)
        on_error.pop_all()
    return server


class TritonServer:
    """Handle of one server process. Made by :func:`start_tritonserver`.

    Attributes:
        host: address it listens on.
        grpc_url: ``host:port`` for gRPC clients on this machine.
        http_url: ``host:port`` for HTTP clients on this machine, or None when HTTP is off.
        metrics_url: address of the Prometheus metrics, or None when they are off.
        models: names of the models it serves, without their companions.
        loaded: names of all models it loads, in order.
        endpoints: address and ports it listens on.
    """

    def __init__(self, launch: Launch, log_file: TextIO | None) -> None:
        self.endpoints = endpoints = launch.endpoints
        self.host = endpoints.address
        reachable = ports.reachable(endpoints.address)
        self.grpc_url = f"{reachable}:{endpoints.grpc}"
        self.http_url = f"{reachable}:{endpoints.http}" if endpoints.http else None
        self.metrics_url = (
            f"http://{reachable}:{endpoints.metrics}/metrics" if endpoints.metrics else None
        )
        self.models = [model.name for model in launch.models if not model.companion_of]
        self.loaded = [model.name for model in launch.models]
        self._launch = launch
        self._model_processes: dict[int, str] = {}
        self._process = GuardedProcess(launch.command, launch.folder, launch.environment, log_file)

    @property
    def session(self) -> int:
        """Number of the session of its processes, which is that of the guardian's process."""
        return self._process.pid

    @property
    def model_processes(self) -> dict[int, str]:
        """Names of the models by process, as far as models have processes of their own."""
        return dict(self._model_processes)

    def poll(self) -> int | None:
        """Return the exit status of a server that has ended, else None."""
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the server to end by itself; return its exit status.

        Args:
            timeout: seconds to wait; None waits for ever.

        Raises:
            TimeoutError: it still runs after ``timeout`` seconds.
        """
        return self._process.wait(timeout)

    def log_tail(self, count: int = 12) -> str:
        """Return the last lines of the server's log, without tables and known noise."""
        return log.tail(self._process.lines(), count)

    def is_listening(self) -> bool:
        """Return whether the gRPC endpoint is this server's: it has said so in its log."""
        return any("Started GRPCInferenceService" in line for line in self._process.lines())

    def stored_model(self, name: str) -> StoredModel:
        """Return where a model it serves is stored."""
        return next(model for model in self._launch.models if model.name == name)

    def find_model_processes(self) -> None:
        """Remember the models' processes, which :meth:`failure` looks after. All must be loaded."""
        self._model_processes = procfs.model_processes(self._process.pid)

    def start_error(self) -> PortError | ServerError:
        """Return why the server ended before it was ready."""
        repository = self._launch.models[0].folder.parent
        # Name the files of the repository, not the links in the private folder.
        private, given = f"{self._launch.folder.models}/", f"{repository}/"
        lines = [line.replace(private, given) for line in self._process.finish()]
        listening = {
            "grpc": self.endpoints.grpc,
            "http": self.endpoints.http,
            "metrics": self.endpoints.metrics,
        }
        return diagnosis.explain_failed_start(
            self.poll(), lines, self.models, listening, repository
        )

    def failure(self) -> ServerError | None:
        """Return what is wrong with a server that was ready; None if it and its models live."""
        if self.poll() is not None:
            return self._exit_error()
        for pid, model in self._model_processes.items():
            if procfs.is_alive(pid):
                continue
            # A dying server takes its models along, and is known to be dead a little later.
            with contextlib.suppress(TimeoutError):
                self.wait(_AFTERMATH)
                return self._exit_error()
            return diagnosis.explain_dead_model(model, self._process.lines())
        return None

    def watch(self) -> None:
        """Block as long as the server and the processes of its models live.

        Raises:
            ServerError: one of them has died.
        """
        while (failure := self.failure()) is None:
            with contextlib.suppress(TimeoutError):
                self.wait(_WATCH_INTERVAL)
        raise failure

    def stop(self, *, drain: bool = True) -> None:
        """End the server and everything it started.

        Args:
            drain: let requests in flight finish first.
        """
        process = self._process
        try:
            process.terminate()
            if drain:
                self._wait_until_drained()
        finally:
            # Kills what is left. Otherwise the server would wait for HTTP clients that merely keep
            # a connection open.
            process.stop()

    def _exit_error(self) -> ServerError:
        self._process.kill_rest()
        return diagnosis.explain_exit(self.poll(), self._process.finish())

    def _wait_until_drained(self) -> None:
        """Wait for the server to end, or to have no work left.

        After SIGTERM the server waits for idle HTTP connections, and then looks at its models once
        a second. Its count of requests in flight leaves out the batch that is being computed. So
        the processes' CPU time decides, which shows all work of models on the CPU.
        """
        deadline = time.monotonic() + GRACE
        idle_since: float | None = None
        spent = procfs.work(self._process.pid)
        while self.poll() is None and (now := time.monotonic()) < deadline:
            before, spent = spent, procfs.work(self._process.pid)
            if not self._launch.cpu_only or spent.running or spent.ticks > before.ticks:
                idle_since = None
            elif idle_since is None:
                idle_since = now
            elif now - idle_since > _IDLE_SPAN:
                return
            time.sleep(_POLL)
