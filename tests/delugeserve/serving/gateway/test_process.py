"""The gateway as a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from asgi import serving

from delugeserve.serving.gateway.settings import GatewaySettings

HANG = 240  # seconds after which it counts as hung; nothing depends on it


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def _gateway(folder, address):
    port = _free_port()
    GatewaySettings(address, port).write(folder / "settings.json")
    command = [sys.executable, "-m", "delugeserve.serving.gateway", "--settings"]
    process = subprocess.Popen(
        [*command, folder / "settings.json"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + HANG
        while True:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.02)
        yield process, port
    finally:
        process.kill()
        process.wait()


def _post(port, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG)
    connection.request("POST", "/classify", body)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


@pytest.mark.slow
def test_a_request_in_flight_is_answered_when_the_process_is_asked_to_stop(
    tmp_path, triton, encode
):
    arrived, go_on = threading.Event(), threading.Event()

    def handler(request, context):
        arrived.set()
        go_on.wait(HANG)
        return [0, 0, 1]

    triton.handler = handler
    with (
        serving(triton) as address,
        _gateway(tmp_path, address) as (process, port),
        ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(_post, port, encode())
        assert arrived.wait(HANG)
        process.send_signal(signal.SIGTERM)
        go_on.set()
        status, body = answer.result()
        assert (status, body["predictions"][0]["label"]) == (200, "blue")
        output, _ = process.communicate(timeout=HANG)
    assert process.returncode == 0, output
    (line,) = output.splitlines()
    assert json.loads(line)["status"] == 200


@pytest.mark.slow
def test_settings_that_are_missing_end_the_process_with_status_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "delugeserve.serving.gateway", "--settings", tmp_path / "none"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
