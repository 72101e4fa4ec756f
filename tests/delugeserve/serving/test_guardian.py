"""The guardian, with small commands in the server's place."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from delugeserve.serving import guardian

STUBBORN = "trap '' TERM; echo started; while :; do sleep 0.05; done"
POLITE = "trap 'exit 3' TERM; echo started; while :; do sleep 0.05; done"
#: A child of the server's, as the model processes are.
PARENT = f'sh -c "{STUBBORN}" & {POLITE}'


@pytest.fixture
def guard(tmp_path: Path):
    folder = tmp_path / "private"
    folder.mkdir()
    region = Path("/dev/shm") / f"{tmp_path.parent.name}_{tmp_path.name}_region"
    region.touch()
    started = []

    def start(script: str, grace: float = 10) -> subprocess.Popen[str]:
        command = [sys.executable, "-I", "-S", guardian.__file__]
        process = subprocess.Popen(
            [*command, str(folder), region.name[:-6], str(grace), "sh", "-c", script],
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
        assert process.wait(10) is not None
        process.stdin.close()
        process.stdout.close()
    assert not folder.exists()
    assert not region.exists()


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -KILL $$", 137)])
def test_its_status_is_the_servers(guard, script, status):
    assert guard(script).wait(10) == status


def test_sigterm_is_passed_on(guard):
    process = guard(POLITE)
    process.stdout.readline()
    process.terminate()
    assert process.wait(10) == 3


def test_the_end_of_its_starter_ends_the_server(guard):
    process = guard(POLITE)
    process.stdout.readline()
    process.stdin.close()
    assert process.wait(10) == 3


def test_a_server_that_does_not_end_is_killed_after_the_grace_time(guard):
    process = guard(STUBBORN, grace=0.3)
    process.stdout.readline()
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 137
    assert time.monotonic() - begun >= 0.3


def test_a_second_word_kills_at_once(guard):
    process = guard(STUBBORN, grace=60)
    process.stdout.readline()
    process.terminate()
    time.sleep(0.1)
    process.stdin.close()
    assert process.wait(10) == 137


def test_what_the_server_started_goes_with_it(guard):
    process = guard(PARENT)
    assert [process.stdout.readline() for _ in range(2)] == ["started\n"] * 2
    process.terminate()
    assert process.wait(10) == 3
