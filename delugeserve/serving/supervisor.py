"""Running a server: start it, know when it truly answers, stop it, leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from delugeserve.artifacts.remedies import repository_option
from delugeserve.artifacts.repository import StoredModel, find_models
from delugeserve.errors import PortError, ServerError, UsageError
from delugeserve.serving import log as server_log
from delugeserve.serving import ports, processes
from delugeserve.serving.guardian import remove_traces
from delugeserve.serving.server import Endpoints, Launch, find_tritonserver, prepare, sweep

_GUARDIAN = Path(__file__).with_name("guardian.py")
_EXIT_TIMEOUT = 30  # seconds the server gives requests in flight
_GRACE = 35.0  # seconds from SIGTERM to SIGKILL
_POLL = 0.05
_IDLE_SPAN = 0.4  # seconds without work that show there is none left
_WATCH_INTERVAL = 1.0  # seconds
_AFTERMATH = 1.0  # seconds


class RunningServer:
    """A server that answers. Made by :func:`serve`.

    Attributes:
        host: address it listens on.
        grpc_url: ``host:port`` for gRPC clients.
        http_url: ``host:port`` for HTTP clients, or None when HTTP is off.
        metrics_url: address of the Prometheus metrics, or None when they are off.
        models: names of the models it serves.
    """

    def __init__(
        self,
        launch: Launch,
        endpoints: Endpoints,
        models: Sequence[StoredModel],
        log: TextIO | None,
    ) -> None:
        self.host = endpoints.address
        reachable = ports.reachable(endpoints.address)
        self.grpc_url = f"{reachable}:{endpoints.grpc}"
        self.http_url = f"{reachable}:{endpoints.http}" if endpoints.http else None
        self.metrics_url = (
            f"http://{reachable}:{endpoints.metrics}/metrics" if endpoints.metrics else None
        )
        self.models = [model.name for model in models]
        self._repository = models[0].folder.parent
        self._model_processes: dict[int, str] = {}
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", str(_GUARDIAN)),
                *(str(launch.folder), launch.shm_prefix, str(_GRACE)),
                *launch.command,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=launch.environment,
            pass_fds=(launch.lock,),
            start_new_session=True,
        )
        os.close(launch.lock)
        self._launch = launch
        if self._process.stdout is None:  # for the type checker: PIPE was asked for
            raise RuntimeError
        self._log = server_log.LogFollower(self._process.stdout, log)

    def poll(self) -> int | None:
        """Exit status of a server that has ended, else None."""
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the server to end by itself; its exit status.

        Raises:
            TimeoutError: it still ran after ``timeout`` seconds.
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None

    def log_tail(self, count: int = 12) -> str:
        """The last lines of the server's log that say something."""
        return server_log.tail(self._log.lines(), count)

    def died(self) -> ServerError:
        """The error to raise for a server that ended without being asked."""
        status = self.poll()
        processes.kill_session(self._process.pid)
        lines = self._log.finish()
        how = f"exit status {status}"
        if status is not None and (status > 128 or status < 0):
            with contextlib.suppress(ValueError):
                how = signal.Signals(status - 128 if status > 0 else -status).name
        return ServerError(
            f"The server died ({how}).",
            f"Its last words:\n{server_log.tail(lines)}",
        )

    def watch(self) -> None:
        """Block as long as the server and the processes of its models live.

        Raises:
            ServerError: one of them has died.
        """
        while self.poll() is None:
            for pid, model in self._model_processes.items():
                if processes.is_alive(pid):
                    continue
                # A server that dies takes its models along, and is known to be dead a little later.
                with contextlib.suppress(TimeoutError):
                    self.wait(_AFTERMATH)
                if self.poll() is None:
                    raise ServerError(
                        f"The process of model '{model}' died.",
                        f"The server's last words:\n{self.log_tail()}",
                    )
            with contextlib.suppress(TimeoutError):
                self.wait(_WATCH_INTERVAL)
        raise self.died()

    def stop(self) -> None:
        """Let requests in flight finish, then end the server and everything it started."""
        process = self._process
        try:
            process.terminate()
            self._wait_until_drained()
        finally:
            # The guardian has been asked already; this is the word to kill what is left. Without
            # it the server would wait for HTTP clients that merely keep a connection open.
            if process.stdin:
                process.stdin.close()
            try:
                process.wait(_GRACE + 5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            # None, unless the guardian was killed: its server dies with it, the models do not.
            processes.kill_session(process.pid)
            self._log.finish()
            remove_traces(self._launch.folder, self._launch.shm_prefix)

    def _wait_until_drained(self) -> None:
        """Wait for the server to end, or for it to have nothing left to do.

        Asked to end, the server waits for idle HTTP connections and then looks at its models once
        a second, so most of what it waits for is nothing. What it calls in flight leaves out the
        batch that is being computed. Models on the CPU show whether they work, and that counts.
        """
        deadline = time.monotonic() + _GRACE
        idle_since: float | None = None
        spent = processes.work(self._process.pid)
        while self.poll() is None and (now := time.monotonic()) < deadline:
            before, spent = spent, processes.work(self._process.pid)
            if not self._launch.cpu_only or spent.running or spent.ticks > before.ticks:
                idle_since = None
            elif idle_since is None:
                idle_since = now
            elif now - idle_since > _IDLE_SPAN:
                return
            time.sleep(_POLL)

    def wait_until_ready(self, timeout: float) -> None:
        """Wait until every model has answered a request over gRPC.

        The server's own readiness is not asked: it stays true when a model's process has died.

        Raises:
            PortError: another process took a port in the meantime.
            ServerError: the server ended, or took too long.
        """
        import tritonclient.grpc
        from tritonclient.utils import InferenceServerException

        deadline = time.monotonic() + timeout
        client = tritonclient.grpc.InferenceServerClient(self.grpc_url)
        waiting, reason = list(self.models), ""
        with contextlib.closing(client):
            while waiting:
                if self.poll() is not None:
                    raise self._start_error()
                if not self._listens():
                    time.sleep(_POLL)
                else:
                    try:
                        left = max(deadline - time.monotonic(), 1.0)
                        _probe(tritonclient.grpc, client, waiting[0], left)
                        waiting.pop(0)
                    except InferenceServerException as error:
                        reason = server_log.tidy(error.message() or "")
                        if error.status() not in _NOT_YET:
                            raise ServerError(
                                f"Model '{waiting[0]}' was loaded and does not answer: {reason}",
                                "Export it again, and see the server's log (--log FILE).",
                            ) from None
                        time.sleep(_POLL)
                if waiting and time.monotonic() > deadline:
                    raise ServerError(
                        f"Model '{waiting[0]}' was not ready after {timeout:.0f} seconds. "
                        f"{reason}".rstrip(),
                        "Try again when the machine is less busy, or serve fewer models at once "
                        "with --model.",
                    )
        self._model_processes = processes.model_processes(self._process.pid)

    def _listens(self) -> bool:
        return any("Started GRPCInferenceService" in line for line in self._log.lines())

    def _start_error(self) -> PortError | ServerError:
        # The private folder is nobody's business; what it links to is the reader's own.
        private, given = f"{self._launch.folder}/models/", f"{self._repository}/"
        lines = [line.replace(private, given) for line in self._log.finish()]
        text = "\n".join(lines)
        for endpoint, url in (("grpc", self.grpc_url), ("http", self.http_url)):
            if url and f"'{self.host}:{url.rpartition(':')[2]}' already in use" in text:
                return PortError(
                    f"Port {url.rpartition(':')[2]}, wanted for {endpoint}, is taken by another "
                    "process.",
                    f"Give another with --{endpoint}-port; 0 picks a free one.",
                )
        reasons = server_log.failed_models(lines)
        if reasons:
            problem = " ".join(
                f"Model '{name}' did not load: {reason}" for name, reason in reasons.items()
            )
            others = [model for model in self.models if model not in reasons]
            return ServerError(
                problem,
                f"Export it again, or serve only the others: --model {' --model '.join(others)}"
                if others
                else f"Export it again with: delugeserve export --model {next(iter(reasons))}"
                f"{repository_option(self._repository)}",
            )
        reason = server_log.startup_error(lines)
        return ServerError(
            f"The server did not start: {reason}" if reason else "The server did not start.",
            f"Its last words:\n{server_log.tail(lines)}",
        )


_NOT_YET = frozenset({"StatusCode.UNAVAILABLE", "StatusCode.NOT_FOUND"})


def _probe(grpc: ModuleType, client: Any, model: str, timeout: float) -> None:
    """One real inference, on zeros of the shape that the model's metadata states."""
    import numpy as np
    from tritonclient.utils import triton_to_np_dtype

    metadata = client.get_model_metadata(model)
    inputs = []
    for tensor in metadata.inputs:
        # An open dimension is the batch, or a size that any number must satisfy.
        shape = [1 if size < 0 else size for size in tensor.shape]
        inputs.append(grpc.InferInput(tensor.name, shape, tensor.datatype))
        dtype = triton_to_np_dtype(tensor.datatype)
        inputs[-1].set_data_from_numpy(np.zeros(shape, dtype))
    client.infer(model, inputs, client_timeout=timeout)


@contextlib.contextmanager
def serve(
    repository: Path,
    *,
    grpc_port: int = 8001,
    http_port: int | None = 8000,
    metrics_port: int | None = 8002,
    host: str = ports.LOOPBACK,
    models: Sequence[str] | None = None,
    log: Path | None = None,
    tritonserver: Path | None = None,
    startup_timeout: float = 300.0,
) -> Iterator[RunningServer]:
    """Serve a model repository until the block ends.

    Inside the block every model has answered a request. At its end, however it ends, requests in
    flight are finished, and the server, its processes, its folder and its shared memory are gone;
    the same holds when this process is killed.

    Args:
        repository: model repository.
        grpc_port: port for gRPC; 0 picks a free one.
        http_port: likewise for HTTP; None turns it off.
        metrics_port: likewise for Prometheus metrics.
        host: name or IPv4 address to listen on.
        models: names of the models to serve; None means all.
        log: file to write the server's whole log to.
        tritonserver: the server program; None takes the installed one.
        startup_timeout: seconds that loading may take.

    Yields:
        The running server.

    Raises:
        RepositoryError: no repository, or no model in it.
        UnknownNameError: a model of ``models`` is not there.
        PortError: a port is taken.
        MissingExtraError: no server, or no runtime for a model, is installed.
        UsageError: this machine cannot run the server, ``host`` is not its address, or the log
            cannot be written.
        ServerError: a model did not load, or the server died.
    """
    stored = find_models(repository, models)
    installation = find_tritonserver(tritonserver)
    sweep()
    address = ports.resolve_host(host)
    chosen = ports.claim(address, {"grpc": grpc_port, "http": http_port, "metrics": metrics_port})
    endpoints = Endpoints(address, chosen["grpc"] or 0, chosen["http"], chosen["metrics"])
    log_file = _open_log(log)
    launch = prepare(installation, stored, endpoints, _EXIT_TIMEOUT)
    try:
        server = RunningServer(launch, endpoints, stored, log_file)
    except BaseException:
        remove_traces(launch.folder, launch.shm_prefix)
        raise
    try:
        server.wait_until_ready(startup_timeout)
        yield server
    finally:
        server.stop()


def _open_log(path: Path | None) -> TextIO | None:
    try:
        return path.open("w", encoding="utf-8", buffering=1) if path else None
    except OSError as error:
        raise UsageError(
            f"The log '{path}' cannot be written ({error.strerror}).",
            "Name a file in a folder that exists and may be written to.",
        ) from None
