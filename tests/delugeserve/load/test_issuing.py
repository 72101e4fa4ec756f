"""What is sent, counted and compared, with a sender that does as it is told."""

import os
import threading
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.stub_sender import ANSWER
from delugeserve.load import Scenario, Settings, Target
from delugeserve.load.checks import Checker
from delugeserve.load.closed_loop import ClosedLoop
from delugeserve.load.job import Job
from delugeserve.load.loadgen import _Issuer
from delugeserve.load.run import _tell

IMAGES = np.zeros((4, 2, 2, 3), np.uint8)
TARGET = Target("stub:1", "stub", IMAGES, np.tile(ANSWER, (4, 1)))


class Sender:
    """Answers at once, some requests in an odd way."""

    def __init__(self, *odd):
        self.odd, self.sent = list(odd), 0

    def send(self, sample_ids, done):
        self.sent += 1
        odd = self.odd.pop(0) if self.odd else None
        if odd == "raises":
            raise ValueError("no")
        done(b"abc" if odd == "short" else ANSWER.tobytes() * len(sample_ids), None)
        if odd == "twice":
            done(None, "lost")

    def close(self):
        pass


def test_a_loadgen_query_is_answered_once_and_after_it_is_counted():
    seen = []
    loadgen = SimpleNamespace(
        QuerySampleResponse=lambda query, *_: query,
        QuerySamplesComplete=lambda ids: seen.append((ids, issuer.errors, issuer.answers)),
    )
    sender = Sender(None, "raises", "twice", "short")
    settings = Settings(Scenario.SERVER, duration=1.0)
    issuer = _Issuer(loadgen, sender, Job(TARGET, settings, lambda _: sender, Path()))
    for query in range(4):
        issuer.issue([query], [0])
    issuer.settle()
    assert seen == [([0], 0, 1), ([1], 1, 1), ([2], 1, 2), ([3], 1, 3)]
    assert issuer.first_error == "ValueError: no"
    assert (issuer.checker.checked, issuer.checker.wrong) == (3, 1)


def test_the_end_of_a_loadgen_test_waits_for_the_last_comparison():
    compared = threading.Event()
    loadgen = SimpleNamespace(QuerySampleResponse=lambda *_: 0, QuerySamplesComplete=lambda _: None)
    sender = SimpleNamespace(send=lambda _, done: threads.append(start(done)))
    threads = []

    def start(done):
        thread = threading.Thread(target=done, args=(ANSWER.tobytes(), None))
        thread.start()
        return thread

    settings = Settings(Scenario.SERVER, duration=1.0)
    issuer = _Issuer(loadgen, sender, Job(TARGET, settings, lambda _: sender, Path()))
    issuer.checker = SimpleNamespace(check=lambda *_: compared.wait(0.05) or compared.set())
    issuer.issue([0], [0])
    issuer.settle()
    assert compared.is_set()
    threads[0].join()


def test_a_closed_loop_survives_a_sender_that_raises_or_answers_twice():
    times = iter(range(1000))
    sender, checker = Sender(None, "raises", "twice", "short"), Checker(TARGET)
    loop = ClosedLoop(sender, TARGET, 1, checker, clock=lambda: next(times))
    samples = loop.run(20)
    assert sender.sent == len(samples.latencies) + samples.errors
    assert (samples.errors, samples.first_error) == (1, "ValueError: no")
    assert (loop.answered, loop.failed) == (len(samples.latencies), 1)
    assert (checker.checked, checker.wrong) == (len(samples.latencies), 1)


def test_a_test_ends_with_its_parent(monkeypatch):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    ours, theirs = Pipe(duplex=False)
    _tell(theirs, 3)
    assert (ours.recv(), codes) == (3, [])
    ours.close()
    _tell(theirs, 4)
    assert codes == [1]
