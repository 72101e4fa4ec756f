"""Faults: each is a function that harms a server and says when the harm is undone."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from chaos_server import Server, full_strength

from delugeserve.serving.fleet.status import ReplicaStatus, ServerStatus
from delugeserve.serving.procfs import is_alive

_SUSPENDED = 5.0  # seconds that the supervisor is suspended
_GONE = 30.0  # seconds until nothing of a killed server is left


@dataclass
class Harm:
    """What a fault did.

    Attributes:
        what: which process was harmed.
        start: when, in seconds of ``time.monotonic``.
        end: when the server was at full strength again.
        notes: what else was noticed.
        versions: the version of each model that has to answer from then on; empty if the fault
            does not change it.
        faults: number of things that are not as they should be.
    """

    what: str
    start: float
    end: float = 0.0
    notes: list[str] = field(default_factory=list)
    versions: dict[str, int | None] = field(default_factory=dict)
    faults: int = 0


Fault = Callable[[Server, int], Harm]


def _signal_model(number: signal.Signals) -> Fault:
    def harm(server: Server, turn: int) -> Harm:
        replica = server.active()
        pid, model = server.model_process(replica, turn)
        return _harm_replica(server, replica, pid, number, f"{model} of {replica.name}")

    return harm


def _signal_server(number: signal.Signals) -> Fault:
    def harm(server: Server, _turn: int) -> Harm:
        replica = server.active()
        return _harm_replica(server, replica, replica.pid or 0, number, replica.name)

    return harm


def kill_guardian(server: Server, _turn: int) -> Harm:
    """Kill the guardian of the active tritonserver; the kernel then kills the server."""
    replica = server.active()
    guardian = os.getsid(replica.pid or 0)
    return _harm_replica(server, replica, guardian, signal.SIGKILL, f"guardian of {replica.name}")


def kill_standby(server: Server, _turn: int) -> Harm:
    """Kill the tritonserver that gets no requests."""
    replica = server.replica("standby")
    return _harm_replica(server, replica, replica.pid or 0, signal.SIGKILL, replica.name)


def _harm_replica(
    server: Server, replica: ReplicaStatus, pid: int, number: signal.Signals, what: str
) -> Harm:
    harm = Harm(what, time.monotonic())
    with _awake(pid, number):
        os.kill(pid, number)
        server.wait_for(
            "another replica",
            lambda status: full_strength(status) and not _has(status, replica),
        )
        harm.end = time.monotonic()
        if is_alive(pid):
            harm.notes.append(f"the harmed process {pid} still runs")
            harm.faults += 1
    return harm


def _signal_front(number: signal.Signals) -> Fault:
    def harm(server: Server, _turn: int) -> Harm:
        return _harm_part(server, "front", server.front_process(), number)

    return harm


def kill_gateway(server: Server, _turn: int) -> Harm:
    """Kill the process behind ``/classify``."""
    return _harm_part(server, "gateway", server.gateway_process(), signal.SIGKILL)


def _harm_part(server: Server, name: str, pid: int, number: signal.Signals) -> Harm:
    status = server.wait_for("a status", full_strength)
    starts = _starts(status, name)
    harm = Harm(name, time.monotonic())
    with _awake(pid, number):
        os.kill(pid, number)
        server.wait_for(
            "another start", lambda one: full_strength(one) and _starts(one, name) > starts
        )
        harm.end = time.monotonic()
    return harm


def kill_supervisor(server: Server, _turn: int) -> Harm:
    """Kill the supervisor, wait until nothing of the server is left, and start it again."""
    server.processes()
    harm = Harm("supervisor", time.monotonic())
    os.kill(server.pid, signal.SIGKILL)
    server.wait(10)
    _start_again(server, harm)
    return harm


def stop_server(server: Server, _turn: int) -> Harm:
    """Stop the server with SIGTERM, and start it again."""
    server.processes()
    harm = Harm("supervisor", time.monotonic())
    status = server.stop(120)
    harm.notes.append(f"exit status {status} after {time.monotonic() - harm.start:.1f} s")
    if status:
        harm.faults += 1
    _start_again(server, harm)
    return harm


def _start_again(server: Server, harm: Harm) -> None:
    ended = time.monotonic()
    while left := server.leftovers():
        if time.monotonic() - ended > _GONE:
            harm.notes += [f"left behind: {one}" for one in left]
            harm.faults += len(left)
            break
        time.sleep(0.05)
    harm.notes.append(f"nothing was left after {time.monotonic() - harm.start:.1f} s")
    server.start()
    server.wait_for("full strength", full_strength)
    harm.end = time.monotonic()


def change_version(server: Server, turn: int) -> Harm:
    """Promote version 2 of one model, roll it back, then do the same with the next model."""
    status = server.wait_for("full strength", full_strength)
    served = dict(status.release.versions) if status.release else {}
    model = sorted(served)[turn // 2 % len(served)]
    act = "rollback" if turn % 2 else "promote"
    wanted = {**served, model: 1 if turn % 2 else 2}
    arguments = ["rollback", model] if turn % 2 else ["promote", model, "2", "--replace-classes"]
    harm = Harm(f"{act} {model}", time.monotonic(), versions=wanted)
    server.run(*arguments)
    server.wait_for(
        f"{act} of {model}",
        lambda one: (
            full_strength(one) and one.release is not None and dict(one.release.versions) == wanted
        ),
    )
    harm.end = time.monotonic()
    return harm


def suspend_supervisor(server: Server, _turn: int) -> Harm:
    """Suspend the supervisor for some seconds, and let it go on."""
    harm = Harm("supervisor", time.monotonic())
    with _awake(server.pid, signal.SIGSTOP):
        os.kill(server.pid, signal.SIGSTOP)
        time.sleep(_SUSPENDED)
    updated = server.wait_for("a status", lambda _: True).updated
    server.wait_for("a new status", lambda one: full_strength(one) and one.updated != updated)
    harm.end = time.monotonic()
    return harm


@contextlib.contextmanager
def _awake(pid: int, number: signal.Signals) -> Iterator[None]:
    """Let a process go on at the end if it was suspended."""
    try:
        yield
    finally:
        if number is signal.SIGSTOP:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _has(status: ServerStatus, replica: ReplicaStatus) -> bool:
    return any(one.name == replica.name for one in status.replicas)


def _starts(status: ServerStatus, name: str) -> int:
    return next((part.starts for part in status.parts if part.name == name), 0)


FAULTS: dict[str, Fault] = {
    "kill -9 model process": _signal_model(signal.SIGKILL),
    "kill -STOP model process": _signal_model(signal.SIGSTOP),
    "kill -9 tritonserver": _signal_server(signal.SIGKILL),
    "kill -STOP tritonserver": _signal_server(signal.SIGSTOP),
    "kill -9 guardian": kill_guardian,
    "kill -9 standby": kill_standby,
    "kill -9 Envoy": _signal_front(signal.SIGKILL),
    "kill -STOP Envoy": _signal_front(signal.SIGSTOP),
    "kill -9 gateway": kill_gateway,
    "kill -9 supervisor": kill_supervisor,
    "kill -STOP supervisor": suspend_supervisor,
    "promote, rollback": change_version,
    "SIGTERM": stop_server,
}
