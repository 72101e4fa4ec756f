import itertools
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from delugeserve_client import ServedModel
from delugeserve_client.address import Address
from delugeserve_client.closed_loop import ClosedLoop
from delugeserve_client.preprocessing import Preprocessing
from delugeserve_client.transport import GrpcTransport

MODEL = ServedModel("m", "", ("1",), "image", {"probabilities": 2}, 4, Preprocessing(2, 2, 2))


class Client:
    """Answers requests from a thread of its own, and counts those in flight."""

    def __init__(self, error=None):
        self.in_flight, self.most, self.answered, self.error = 0, 0, 0, error
        self.lock = threading.Lock()

    def async_infer(self, callback, **request):
        with self.lock:
            self.in_flight += 1
            self.most = max(self.most, self.in_flight)
        threading.Timer(0.001, self.answer, [callback]).start()

    def answer(self, callback):
        with self.lock:
            self.in_flight -= 1
            self.answered += 1
        callback(None if self.error else SimpleNamespace(as_numpy=lambda name: None), self.error)


def loop(client, workers):
    transport = GrpcTransport(Address("localhost:1", "grpc"), 1.0)
    transport.close()
    transport.client = client
    return ClosedLoop(transport, MODEL, [np.zeros((1, 2, 2, 3), np.uint8)] * 3, workers)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Time that passes with each look at the clock, however busy the machine is."""
    ticks = itertools.count(step=0.001)
    monkeypatch.setattr("delugeserve_client.closed_loop.time.perf_counter", lambda: next(ticks))


@pytest.mark.parametrize("workers", [1, 4])
def test_keeps_its_number_of_requests_in_flight(workers):
    client = Client()
    samples = loop(client, workers).run(0.05)
    assert client.most == workers
    assert client.in_flight == 0  # all are waited for
    assert len(samples.latencies) == client.answered >= workers
    assert samples.errors == []
    assert samples.seconds >= 0.05


def test_gives_up_when_every_request_fails():
    error = ConnectionRefusedError()
    samples = loop(Client(error), 2).run(3600)
    assert samples.errors == [error] * 20
    assert samples.latencies == []


def test_no_time_is_no_load():
    client = Client()
    assert loop(client, 2).run(0).latencies == []
    assert client.most == 0
