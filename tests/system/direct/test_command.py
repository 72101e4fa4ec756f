"""``delugeserve serve --direct``: signals, deaths of its processes, and mistakes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import HANG, family, folder_of, traces, wait_until
from tiny_network import connect, images, infer

grpc = pytest.importorskip("tritonclient.grpc")


@pytest.fixture
def start():
    """Start the command; what a failed test leaves running is stopped."""
    started = []

    def run(*arguments: str, environment=None, **options) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "delugeserve", "serve", "--direct", "--json", "--no-http"]
        free = ["--grpc-port", "0", "--metrics-port", "0"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        # As from a service manager or by its full name: our python3 is not on PATH.
        pipes["env"] = {**os.environ, "PATH": "/usr/bin:/bin", **(environment or {})}
        process = subprocess.Popen([*command, *free, *arguments], **{**pipes, **options})
        started.append(process)
        return process

    yield run
    for process in started:
        process.terminate()
        with contextlib.suppress(ValueError):  # its pipes are closed: it has been read already
            process.communicate(timeout=HANG)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_stops_the_command_cleanly(start, repository: Path, number):
    process = start("--repository", str(repository))
    ready = json.loads(process.stdout.readline())
    assert ready["models"] == ["tiny", "tiny_ov"]
    with connect(ready["grpc"]) as client:
        infer(grpc, client, "tiny", images(1))
    processes = family(process.pid)
    assert len(processes) == 4  # the guardian, the server, and two models
    process.send_signal(number)
    out, err = process.communicate(timeout=HANG)
    assert (process.returncode, out) == (0, "")
    assert "delugeserve classify" in err
    assert "Traceback" not in err
    # Removed before the command ends; a killed process may take a moment to go.
    assert not folder_of(processes).exists()
    wait_until(lambda: not traces(processes))


def test_nothing_outlives_a_command_that_is_killed(start, repository: Path):
    process = start("--repository", str(repository), stderr=subprocess.DEVNULL)
    process.stdout.readline()
    processes = family(process.pid)
    process.kill()
    process.wait()
    wait_until(lambda: not traces(processes))


@pytest.mark.parametrize(
    ("victim", "expected"),
    [
        ("triton_python_backend_stub", "process of model 'tiny' died"),
        ("bin/tritonserver", "server died (SIGKILL)"),
        ("guardian.py", "server died"),
    ],
    ids=["model", "server", "guardian"],
)
def test_a_death_is_reported(start, repository: Path, victim, expected):
    process = start("--repository", str(repository), "--model", "tiny")
    process.stdout.readline()
    processes = family(process.pid)
    # The guardian's command line ends in the server's.
    pid = next(
        pid
        for pid, command in processes.items()
        if victim in command and ("guardian.py" in command) == (victim == "guardian.py")
    )
    os.kill(pid, signal.SIGKILL)
    _, err = process.communicate(timeout=HANG)
    assert process.returncode == 1
    assert expected in err
    assert "Last log lines:" in err
    assert "Traceback" not in err
    wait_until(lambda: not traces(processes))


def test_a_users_mistake_exits_with_2(start, tmp_path: Path):
    process = start("--repository", str(tmp_path / "nowhere"))
    out, err = process.communicate(timeout=HANG)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("error: ")
    assert str(tmp_path / "nowhere") in err
    assert "Traceback" not in err


def test_proxies_are_not_used_for_this_machine(start, repository: Path):
    # A proxy that refuses every connection: nothing listens on the discard port.
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), "http://127.0.0.1:9")
    process = start("--repository", str(repository), "--model", "tiny", environment=proxies)
    assert json.loads(process.stdout.readline())["models"] == ["tiny"]


def test_all_addresses(start, repository: Path, tmp_path: Path):
    arguments = ["--repository", str(repository), "--model", "tiny", "--host", "0.0.0.0"]
    process = start(*arguments, "--insecure", "--log", str(tmp_path / "server.log"))
    ready = json.loads(process.stdout.readline())
    assert ready["host"] == "0.0.0.0"
    assert ready["http"] is None
    with connect(ready["grpc"]) as client:
        infer(grpc, client, "tiny", images(1))
    process.terminate()
    _, err = process.communicate(timeout=HANG)
    assert err.startswith("warning: ")
    port = ready["grpc"].rpartition(":")[2]
    assert f"GRPCInferenceService at 0.0.0.0:{port}" in (tmp_path / "server.log").read_text()
