"""``delugeserve serve`` as a process of its own: its status, its processes, and what it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from delugeserve.serving import ports, procfs
from delugeserve.serving.fleet.status import ReplicaStatus, ServerStatus, find_servers

_STARTUP = 300.0  # seconds
_POLL = 0.02  # seconds


class Server:
    """A ``delugeserve serve`` of a repository; a context manager that ends it.

    It can be killed and started again on the same ports, with its temporary files in one folder.

    Args:
        repository: the model repository.
        folder: for temporary files and the log.
        options: more options of ``serve``.

    Attributes:
        grpc: ``host:port`` for gRPC.
        http: ``host:port`` for HTTP.
        log: the log file.
    """

    def __init__(self, repository: Path, folder: Path, options: Sequence[str] = ()) -> None:
        self.repository, self.folder = repository, folder
        self.log = folder / "serve.log"
        self._temporary = folder / "temporary"
        self._temporary.mkdir(exist_ok=True)
        self._environment = {**os.environ, "TMPDIR": str(self._temporary)}
        found = ports.claim(ports.LOOPBACK, {"grpc": 0, "http": 0, "metrics": 0})
        self.grpc, self.http = (f"127.0.0.1:{found[name]}" for name in ("grpc", "http"))
        self._command = [sys.executable, "-m", "delugeserve", "serve", "--json"]
        self._command += ["--repository", str(repository)]
        for name, port in found.items():
            self._command += [f"--{name}-port", str(port)]
        self._command += options
        self._folders: set[str] = set()  # names of private folders, with which shared memory begins
        self._sessions: set[int] = set()  # of guardians
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process and self._process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop(60)
            self._process.kill()

    @property
    def pid(self) -> int:
        """Number of the supervisor's process."""
        if self._process is None:
            raise RuntimeError("The server has not been started.")
        return self._process.pid

    def start(self, *, wait: bool = True) -> None:
        """Start it; return when it says that it is ready."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=subprocess.PIPE, stderr=log
            )
        if wait and self._process.stdout:
            line = self._process.stdout.readline()
            if not line:
                raise RuntimeError(f"The server did not start:\n{self.log_tail()}")
            json.loads(line)

    def log_tail(self) -> str:
        """Return the last lines of its messages."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-12:])

    def stop(self, timeout: float | None = None) -> int:
        """Send SIGTERM, and return the exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout)

    def wait(self, timeout: float) -> int:
        """Wait for its end; return the exit status."""
        assert self._process is not None
        return self._process.wait(timeout)

    def run(self, *arguments: str) -> None:
        """Run another command of delugeserve on the same repository."""
        command = [sys.executable, "-m", "delugeserve", *arguments]
        with self.log.open("ab") as log:
            subprocess.run(
                [*command, "--repository", str(self.repository)],
                env=self._environment,
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def status(self) -> ServerStatus | None:
        """Return its status; None before it has written one."""
        with self._own_folder():
            found = [one for one in find_servers(self.repository) if one.pid == self.pid]
        return found[0] if found else None

    def wait_for(
        self, what: str, condition: Callable[[ServerStatus], bool], timeout: float = _STARTUP
    ) -> ServerStatus:
        """Wait until the status meets a condition.

        Raises:
            TimeoutError: it did not.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            status = self.status()
            if status and condition(status):
                return status
            if self._process and self._process.poll() is not None:
                raise RuntimeError(f"The server ended:\n{self.log_tail()}")
            time.sleep(_POLL)
        raise TimeoutError(f"{what}: not within {timeout:g} s; last lines:\n{self.log_tail()}")

    def active(self) -> ReplicaStatus:
        """Return the replica that gets the requests."""
        return self.replica("active")

    def replica(self, state: str) -> ReplicaStatus:
        """Return a replica in a state."""
        status = self.wait_for(f"one that is {state}", lambda one: bool(_in_state(one, state)))
        return _in_state(status, state)[0]

    def model_process(self, replica: ReplicaStatus, turn: int) -> tuple[int, str]:
        """Return a process that runs a model of a replica, and the model; another each turn."""
        found = sorted(procfs.model_processes(os.getsid(replica.pid or 0)).items(), key=_model)
        return found[turn % len(found)]

    def front_process(self) -> int:
        """Return the process of Envoy."""
        return self._part("envoy")

    def gateway_process(self) -> int:
        """Return the process of the gateway."""
        return self._part("delugeserve.serving.gateway")

    def _part(self, word: str) -> int:
        """Return the process that has the word in its command line, and a guardian as parent."""
        for pid in _processes():
            if word in _command(pid) and _parent(_parent(pid)) == self.pid:
                return pid
        raise RuntimeError(f"The server runs no {word}.")

    def processes(self) -> dict[int, str]:
        """Return all its processes, the supervisor and the guardians too, with what they are."""
        self._remember()
        found = {self.pid: "supervisor"}
        for guardian in self._sessions:
            members = procfs.session_members(guardian)
            if members:
                found[guardian] = "guardian"
            models = procfs.model_processes(guardian)
            for pid in members:
                found[pid] = models.get(pid) or _program(pid)
        return found

    def memory(self) -> dict[str, int]:
        """Return the bytes of each kind of process; what processes share counts once."""
        used: dict[str, int] = {}
        for pid, what in self.processes().items():
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
                match = re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE)
                used[what] = used.get(what, 0) + (int(match[1]) << 10 if match else 0)
        return used

    def file_handles(self) -> dict[str, int]:
        """Return the number of open files of each kind of process."""
        used: dict[str, int] = {}
        for pid, what in self.processes().items():
            with contextlib.suppress(OSError):
                count = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
                used[what] = used.get(what, 0) + count
        return used

    def leftovers(self) -> list[str]:
        """Return what is left of a server that has ended: processes, files, shared memory.

        The folder with its status stays, until the next server removes it.
        """
        left = [
            f"process {pid} ({_command(pid)[:80]})"
            for guardian in self._sessions
            for pid in [*procfs.session_members(guardian), guardian]
            if procfs.is_alive(pid)
        ]
        left += [str(path) for path in self._temporary.glob("delugeserve-????????/*")]
        left += [
            str(path)
            for path in Path("/dev/shm").iterdir()
            if any(path.name.startswith(f"{name}_") for name in self._folders)
        ]
        return left

    def _remember(self) -> None:
        """Keep the names by which what it leaves would be found."""
        self._folders.update(path.name for path in self._temporary.glob("delugeserve-*"))
        if self._process and self._process.poll() is None:
            self._sessions.update(pid for pid in _processes() if _leads(pid, self.pid))

    @contextlib.contextmanager
    def _own_folder(self) -> Iterator[None]:
        """Look for the status where the server writes it."""
        before = tempfile.tempdir
        tempfile.tempdir = None if os.environ.get("XDG_RUNTIME_DIR") else str(self._temporary)
        try:
            yield
        finally:
            tempfile.tempdir = before


def full_strength(status: ServerStatus) -> bool:
    """Return whether everything runs that should, as the server says."""
    return status.state == "serving"


def _in_state(status: ServerStatus, state: str) -> list[ReplicaStatus]:
    return [one for one in status.replicas if one.state == state and one.pid]


def _model(item: tuple[int, str]) -> tuple[str, int]:
    return item[1], item[0]


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
    except OSError:
        return ""


def _leads(pid: int, parent: int) -> bool:
    """Return whether a process is a child that leads a session, as guardians do."""
    try:
        return _parent(pid) == parent and os.getsid(pid) == pid
    except ProcessLookupError:
        return False


def _program(pid: int) -> str:
    """Return which of the programs that a server runs a process is."""
    command = _command(pid)
    words = ("tritonserver", "envoy", "delugeserve.serving.gateway", "triton_python_backend_stub")
    return next((word.rpartition(".")[2] for word in words if word in command), "other")


def _parent(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[1])
