"""Two real servers behind one classifier: one hangs, one is killed and comes back; no call fails.

How fast requests move is in tests/clients/core/test_dispatch.py, whose clock no machine slows down.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import threading
import time
from collections import Counter

import numpy as np
import pytest
from processes import HANG, family, wait_until

from delugeserve.serving.supervisor import serve
from delugeserve_client import AsyncClassifier, Classifier

pytest.importorskip("onnxruntime", reason="the backends need the extra 'server'")
if shutil.which("tritonserver") is None:
    pytest.importorskip("pytriton.constants", reason="there is no tritonserver (nvidia-pytriton)")

RED = np.full((8, 12, 3), (255, 0, 0), np.uint8)


def process_of(server):
    port = server.grpc_url.rpartition(":")[2]
    return next(
        pid
        for pid, command in family(os.getpid()).items()
        if command.split()[0].endswith("tritonserver") and f"--grpc-port={port}" in command
    )


class Load:
    """Threads that classify without pause, and what became of their calls."""

    def __init__(self, classifier):
        self.classifier = classifier
        self.answers, self.errors, self.slowest = 0, [], 0.0
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(4)]

    def _work(self):
        while not self._stopped.is_set():
            start = time.monotonic()
            try:
                assert self.classifier.classify(RED).top.label == "red"
            except Exception as error:
                self.errors.append(error)
                return
            self.slowest = max(self.slowest, time.monotonic() - start)
            self.answers += 1

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        for thread in self._threads:
            thread.join(HANG)
            assert not thread.is_alive()

    def more(self, count=20):
        """Wait for more answers."""
        wanted = self.answers + count
        wait_until(lambda: self.answers >= wanted or self.errors)
        assert self.errors == []


@pytest.fixture
def two(tmp_path, write_colour_model):
    write_colour_model(tmp_path / "colour")
    options = {"http_port": 0, "metrics_port": None, "direct": True}
    with (
        serve(tmp_path, grpc_port=0, **options) as first,
        serve(tmp_path, grpc_port=0, **options) as second,
    ):
        yield first, second


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL], ids=["hung", "killed"])
def test_no_call_fails_when_a_server_does(two, protocol, how):
    urls = [one.grpc_url if protocol == "grpc" else f"http://{one.http_url}" for one in two]
    with Classifier(urls, "colour", timeout=HANG) as classifier:
        sessions = classifier._sessions._dispatcher.endpoints.all
        with Load(classifier) as load:
            load.more()
            wait_until(lambda: all(one.in_flight for one in sessions))
            pid = process_of(two[0])
            os.kill(pid, how)
            load.more()
            wait_until(lambda: not sessions[0].healthy)
            load.more()
            if how == signal.SIGSTOP:
                os.kill(pid, signal.SIGCONT)
                wait_until(lambda: sessions[0].healthy)
                load.more()
                wait_until(lambda: sessions[0].in_flight)
        assert load.errors == []
        assert load.slowest < HANG / 4


def test_asyncio_moves_as_well(two):
    async def use():
        urls = [one.grpc_url for one in two]
        async with AsyncClassifier(urls, "colour", timeout=HANG) as classifier:
            labels = Counter()
            stopped = asyncio.Event()

            async def work():
                while not stopped.is_set():
                    labels[(await classifier.classify(RED)).top.label] += 1

            tasks = [asyncio.create_task(work()) for _ in range(4)]
            while labels["red"] < 20:
                await asyncio.sleep(0.01)
            os.kill(process_of(two[0]), signal.SIGSTOP)
            try:
                before = labels["red"]
                while labels["red"] < before + 20:
                    await asyncio.sleep(0.01)
                    assert not any(task.done() for task in tasks)
            finally:
                os.kill(process_of(two[0]), signal.SIGCONT)
            stopped.set()
            await asyncio.gather(*tasks)
            assert set(labels) == {"red"}

    asyncio.run(use())
