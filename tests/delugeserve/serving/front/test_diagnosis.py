"""Why Envoy ended, and what to do."""

from __future__ import annotations

import signal

import pytest

from delugeserve.errors import PortError
from delugeserve.serving.front.diagnosis import explain_end

START = "[2026-11-28 09:00:00.000][7]"
WANTED = {"grpc": 8001, "http": None}


def test_a_port_that_is_taken():
    lines = [f"{START}[error][config] cannot bind '127.0.0.1:8001': Address already in use"]
    found = explain_end(1, lines, WANTED)
    assert isinstance(found, PortError)
    assert (found.port, found.endpoint) == (8001, "grpc")


@pytest.mark.parametrize("status", [128 + signal.SIGKILL, -signal.SIGKILL])
def test_a_kill_means_too_little_memory(status):
    found = explain_end(status, ["line"], WANTED)
    assert "memory" in found.remedy
    assert found.log_tail == "line"


def test_the_last_serious_line_is_the_reason():
    lines = [
        f"{START}[error][main] [source/a.cc:1] an older one",
        f"{START}[critical][main] [source/server/server.cc:414] error: no such filter",
        f"{START}[info][main] [source/server/server.cc:9] exiting",
    ]
    problem = explain_end(1, lines, WANTED).problem
    assert problem == "Envoy ended (exit status 1): error: no such filter."


def test_a_signal_is_named():
    assert "SIGSEGV" in explain_end(128 + signal.SIGSEGV, [], WANTED).problem
