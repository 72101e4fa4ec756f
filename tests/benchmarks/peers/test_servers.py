"""Peers are started, asked and ended, with every process that they started."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import stub_peer
from peer_model import IMAGES, MODEL

from benchmarks.peers import servers
from benchmarks.peers.forms import PLAIN_PIXELS
from benchmarks.peers.interface import PIXELS, Batching, Launch, Peer
from benchmarks.peers.workload import Workload

STUB = str(Path(stub_peer.__file__))
PEER = Peer(
    "stub",
    "Stub",
    "numpy",
    command=lambda launch: [str(launch.python), STUB],
    forms={PIXELS: PLAIN_PIXELS},
)
ANSWERS = np.stack([np.frombuffer(stub_peer.answer(image), np.float32) for image in IMAGES])
WORKLOAD = Workload(PIXELS, IMAGES, np.zeros((10, 2, 2, 3), np.uint8), ANSWERS)


@pytest.fixture
def launch(tmp_path):
    ports = servers.free_ports()
    return Launch(Path(sys.executable), MODEL, Batching(workers=2), *ports, tmp_path)


def test_a_peer_answers_and_leaves_no_process(launch, tmp_path):
    log = tmp_path / "log"
    with servers.serve(PEER, launch, WORKLOAD, log) as running:
        assert running.url == f"http://127.0.0.1:{launch.http_port}"
        assert running.memory() > 1 << 20
        found = servers.ask(launch, PLAIN_PIXELS, IMAGES[3])
        assert found == stub_peer.answer(IMAGES[3])
    (stray,) = re.findall(r"stray (\d+)", log.read_text())
    for _ in range(200):  # whoever adopts it must still collect it
        if not psutil.pid_exists(int(stray)) or psutil.Process(int(stray)).status() == "zombie":
            break
        time.sleep(0.01)
    else:
        pytest.fail("a process in a session of its own is left")
    with pytest.raises(OSError, match="refused"):
        servers.ask(launch, PLAIN_PIXELS, IMAGES[3])


def test_a_wrong_answer_ends_the_start(launch, tmp_path):
    wrong = dataclasses.replace(WORKLOAD, answers=1 - ANSWERS)
    with (
        pytest.raises(servers.StartError, match="answers"),
        servers.serve(PEER, launch, wrong, tmp_path / "log"),
    ):
        pytest.fail("it answers wrongly")


def test_a_peer_that_ends_says_why(launch, tmp_path):
    peer = dataclasses.replace(
        PEER, command=lambda _: [sys.executable, "-c", "import sys; sys.exit('no such engine')"]
    )
    with (
        pytest.raises(servers.StartError, match="no such engine"),
        servers.serve(peer, launch, WORKLOAD, tmp_path / "log"),
    ):
        pytest.fail("it did not start")


def test_a_peer_gets_no_setting_of_threads_and_no_proxy(launch, monkeypatch, tmp_path):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "https_proxy", "PYTHONPATH"):
        monkeypatch.setenv(name, "/elsewhere")
    given = servers.environment(PEER, launch, tmp_path / "settings.json")
    assert "/elsewhere" not in given.values()
    assert given["PATH"] == os.environ["PATH"]
    assert given["PYTHONPATH"].split(os.pathsep)[-1].endswith("clients")
