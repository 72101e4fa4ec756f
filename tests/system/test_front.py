"""Envoy in front of two real servers: clients, and what they notice when a process is killed."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import threading
import time

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from delugeserve.serving import ports, procfs
from delugeserve.serving.front.front import start_front
from delugeserve.serving.front.installation import find_envoy
from delugeserve.serving.front.settings import FrontSettings, Routing, Upstream
from delugeserve.serving.supervisor import serve
from delugeserve_client import Classifier

IMAGE = np.full((1, 8, 12, 3), [250, 0, 0], np.uint8)
THREADS = 4
NO_PROXY = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]


@pytest.fixture(scope="module")
def repository(write_colour_model, tmp_path_factory):
    repository = tmp_path_factory.mktemp("repository")
    write_colour_model(repository / "colour")
    return repository


@pytest.fixture
def setup(repository):
    """A front and its two servers, the active one first."""
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(
                serve(repository, grpc_port=0, http_port=0, metrics_port=None, direct=True)
            )
            for _ in range(2)
        ]
        active, standby = (
            Upstream(str(number), server.endpoints.grpc, server.endpoints.http)
            for number, server in enumerate(servers)
        )
        free = ports.claim("127.0.0.1", {"grpc": 0, "http": 0})
        settings = FrontSettings("127.0.0.1", free["grpc"], free["http"], None)
        front = start_front(find_envoy(), settings, Routing((active,), (standby,)))
        stack.callback(front.stop)
        yield front, *servers


def test_clients_and_a_killed_model_and_server(setup):
    front, active, _ = setup
    grpc, http = front.settings.grpc_port, front.settings.http_port
    for url in (f"127.0.0.1:{grpc}", f"http://127.0.0.1:{http}"):
        with Classifier(url) as classifier:  # finds the only model
            assert classifier.classify([IMAGE[0]])[0].predictions[0].label == "red"
    statistics = tritonclient.http.InferenceServerClient(f"127.0.0.1:{http}")
    assert statistics.get_inference_statistics("colour")["model_stats"]

    done = threading.Event()
    answers, failures = [], []

    def ask() -> None:
        with tritonclient.grpc.InferenceServerClient(
            f"127.0.0.1:{grpc}", channel_args=NO_PROXY
        ) as client:
            tensor = tritonclient.grpc.InferInput("image", IMAGE.shape, "UINT8")
            tensor.set_data_from_numpy(IMAGE)
            while not done.is_set():
                try:
                    result = client.infer("colour", [tensor]).as_numpy("logits")
                    answers.append(int(result.argmax()))
                except Exception as error:
                    failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    try:
        _wait_for(answers, 50)
        (model,) = procfs.model_processes(active._process.pid)
        os.kill(model, signal.SIGKILL)
        _wait_for(answers, len(answers) + 200)
        assert front.ejected() == {"0"}
        old = front.routing
        front.route(Routing(old.standby))
        _wait_for(answers, len(answers) + 100)
    finally:
        done.set()
        for thread in threads:
            thread.join(60)
    assert not failures
    assert set(answers) == {0}


def _wait_for(answers: list[int], count: int) -> None:
    deadline = time.monotonic() + 120
    while len(answers) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_front_that_stops_answers_over_the_connections_it_has(setup):
    """A client that pauses between two requests is told to connect elsewhere, and loses none."""
    front, *_ = setup
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", front.settings.http_port)
    ) as connection:

        def ask():
            connection.request("GET", "/v2/models/colour")
            answer = connection.getresponse()
            answer.read()
            return answer.status, answer.getheader("connection")

        assert ask() == (200, None)
        stopping = threading.Thread(target=front.stop)
        stopping.start()
        time.sleep(0.3)  # longer than a front without connections takes to find that it is idle
        assert ask() == (200, "close")
        stopping.join()
