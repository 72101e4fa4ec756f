"""The guardian, with shell scripts in place of a server."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from delugeserve.serving import guardian

HANG = 240  # seconds after which a test counts as hung; no test depends on it
FOREVER = 1e6  # seconds
STUBBORN = "trap '' TERM; echo started; while :; do sleep 0.05; done"
POLITE = "trap 'exit 3' TERM; echo started; while :; do sleep 0.05; done"
#: A server with a child, as the processes of models are.
PARENT = f'sh -c "{STUBBORN}" & {POLITE}'


@pytest.fixture
def guard(tmp_path: Path):
    folder = tmp_path / "private"
    folder.mkdir()
    prefix = f"test-guardian-{uuid.uuid4().hex}_"
    region = Path("/dev/shm") / f"{prefix}region"
    region.touch()
    started = []

    def start(script: str, grace: float = FOREVER) -> subprocess.Popen[str]:
        command = [sys.executable, "-I", "-S", guardian.__file__]
        process = subprocess.Popen(
            [*command, str(folder), prefix, str(grace), "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        # The pipe ends when the last process that holds it has gone.
        assert process.stdout.read() == ""
        assert process.wait(HANG) is not None
        process.stdin.close()
        process.stdout.close()
    assert not folder.exists()
    assert not region.exists()


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -KILL $$", 137)])
def test_exit_status_is_the_servers(guard, script, status):
    assert guard(script).wait(HANG) == status


def test_sigterm_is_passed_on(guard):
    process = guard(POLITE)
    process.stdout.readline()
    process.terminate()
    assert process.wait(HANG) == 3


def test_the_end_of_the_parent_ends_the_server(guard):
    process = guard(POLITE)
    process.stdout.readline()
    process.stdin.close()
    assert process.wait(HANG) == 3


def test_a_server_that_does_not_end_is_killed_after_the_grace_time(guard):
    process = guard(STUBBORN, grace=0.3)
    process.stdout.readline()
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(HANG) == 137
    assert time.monotonic() - begun >= 0.3


def test_a_signal_and_the_end_of_the_parent_kill_at_once(guard):
    process = guard(STUBBORN)
    process.stdout.readline()
    process.terminate()
    process.stdin.close()
    assert process.wait(HANG) == 137


def test_a_program_that_cannot_run(tmp_path):
    program = tmp_path / "garbage"
    program.write_bytes(b"\0garbage")
    program.chmod(0o755)
    (tmp_path / "private").mkdir()
    done = subprocess.run(
        [sys.executable, "-I", "-S", guardian.__file__, tmp_path / "private", "none", "1", program],
        stdin=subprocess.PIPE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith(f"error: creating server: {guardian.CANNOT_RUN} {program}")
    assert done.stderr == ""
    assert not (tmp_path / "private").exists()


def test_children_of_the_server_are_killed_with_it(guard):
    process = guard(PARENT)
    assert [process.stdout.readline() for _ in range(2)] == ["started\n"] * 2
    process.terminate()
    assert process.wait(HANG) == 3
