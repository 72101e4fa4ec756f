"""How a bare server starts and ends, and what prevents its start."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from processes import HANG, cpu_ticks, family, traces, wait_until
from tiny_network import CLASSES, add_model, connect, images, infer

from delugeserve.artifacts.repository import find_models
from delugeserve.errors import PortError, ServerError
from delugeserve.serving import ports, procfs
from delugeserve.serving.supervisor import serve
from delugeserve.serving.triton import launch
from delugeserve.serving.triton import server as tritonserver
from delugeserve.serving.triton.installation import find_tritonserver
from delugeserve.serving.triton.readiness import wait_until_ready

grpc = pytest.importorskip("tritonclient.grpc")
http = pytest.importorskip("tritonclient.http")

FREE_PORTS = {"grpc_port": 0, "http_port": None, "metrics_port": None, "direct": True}


def test_http_and_metrics_can_be_off(repository: Path):
    with serve(repository, **FREE_PORTS, models=["tiny"]) as one:
        assert (one.http_url, one.metrics_url, one.models) == (None, None, ["tiny"])


def test_an_idle_http_connection_does_not_delay_the_end(repository: Path, monkeypatch):
    # If the connection delayed the end, it would do so longer than a test may take.
    monkeypatch.setattr(launch, "_EXIT_TIMEOUT", 10_000)
    monkeypatch.setattr(tritonserver, "GRACE", 10_000)
    with contextlib.ExitStack() as open_connections:
        with serve(
            repository, grpc_port=0, http_port=0, metrics_port=None, direct=True, models=["tiny"]
        ) as one:
            client = http.InferenceServerClient(one.http_url)
            open_connections.callback(client.close)
            infer(http, client, "tiny", images(1))
        assert one.poll() is not None


def test_requests_in_flight_are_answered_before_the_end(tmp_path: Path):
    add_model(tmp_path, "slow", slow=True)
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as stack:
        with serve(tmp_path, **FREE_PORTS) as one:
            client = stack.enter_context(connect(one.grpc_url))
            (model,) = procfs.model_processes(one._process.pid)
            before = cpu_ticks(model)
            answer = pool.submit(infer, grpc, client, "slow", images(1))
            wait_until(lambda: cpu_ticks(model) - before > 5)  # it computes
            assert not answer.done()
        assert answer.result().as_numpy("logits").shape == (1, CLASSES)


def test_a_server_from_elsewhere(repository: Path, tmp_path: Path):
    """A copy of the wheel's server, laid out as in NVIDIA's container."""
    ours = find_tritonserver()
    if ours.stub is None:
        pytest.skip("needs the wheel's server")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "tritonserver"
    program.write_text(
        f"#!/bin/sh\nLD_LIBRARY_PATH='{ours.libraries}' exec '{ours.executable}' \"$@\"\n"
    )
    program.chmod(0o755)
    shutil.copytree(ours.backends, tmp_path / "backends")
    shutil.copy2(ours.stub, tmp_path / "backends" / "python")
    with serve(repository, **FREE_PORTS, models=["tiny"], tritonserver=program) as one:
        assert one.models == ["tiny"]


def test_a_model_that_does_not_load_is_named_with_the_cause(
    repository: Path, tmp_path: Path, temporary: Path
):
    shutil.copytree(repository / "tiny", tmp_path / "tiny")
    shutil.copytree(repository / "tiny", tmp_path / "broken")
    (tmp_path / "broken" / "1" / "model.onnx").write_bytes(b"\xff\xff not a model")
    before = set(temporary.iterdir())
    with pytest.raises(ServerError) as caught, serve(tmp_path, **FREE_PORTS):
        pass
    assert list(caught.value.reasons) == ["broken"]
    assert caught.value.reasons["broken"].startswith("model.onnx")
    assert "--model tiny" in caught.value.remedy
    assert str(temporary) not in str(caught.value)
    assert set(temporary.iterdir()) == before


def test_a_configuration_that_the_model_does_not_bear_out(repository: Path, tmp_path: Path):
    shutil.copytree(repository / "tiny_ov", tmp_path / "tiny_ov")
    config = tmp_path / "tiny_ov" / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: [8, 8, 3]", "dims: [9, 8, 3]"))
    with pytest.raises(ServerError) as caught, serve(tmp_path, **FREE_PORTS):
        pass
    assert "'image'" in caught.value.reasons["tiny_ov"]


def test_a_model_that_loads_and_does_not_answer(tmp_path: Path):
    add_model(tmp_path, "poisoned", poison=-1)  # every image makes it fail
    with pytest.raises(ServerError) as caught, serve(tmp_path, **FREE_PORTS):
        pass
    assert caught.value.reasons["poisoned"]
    assert f"delugeserve verify {tmp_path / 'poisoned' / '1'}" in caught.value.remedy


def test_a_start_that_takes_too_long(repository: Path, temporary: Path):
    before = set(temporary.iterdir())
    with (
        pytest.raises(ServerError) as caught,
        serve(repository, **FREE_PORTS, startup_timeout=0),
    ):
        pass
    assert list(caught.value.reasons) == ["tiny"]
    assert "--startup-timeout" in caught.value.remedy
    assert set(temporary.iterdir()) == before


def test_a_port_that_is_taken(repository: Path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        with (
            pytest.raises(PortError) as caught,
            serve(repository, grpc_port=taken, http_port=None, metrics_port=None, direct=True),
        ):
            pass
    assert (caught.value.port, caught.value.endpoint) == (taken, "grpc")


def test_progress_of_the_start(repository: Path):
    class Recorder:
        def __init__(self):
            self.stages, self.steps = [], 0

        def stage(self, name, total=None):
            self.stages.append((name, total))

        def advance(self, steps=1):
            self.steps += steps

    recorder = Recorder()
    with serve(repository, **FREE_PORTS, progress=recorder):
        assert recorder.stages == [("start the server", None), ("load 2 models", 2)]
        assert recorder.steps == 2


def test_a_server_that_is_stopped_without_draining(repository: Path):
    stored = find_models(repository, ["tiny"])
    endpoints = launch.Endpoints("127.0.0.1", ports.claim("127.0.0.1", {"grpc": 0})["grpc"])
    one = tritonserver.start_tritonserver(find_tritonserver(), stored, endpoints)
    try:
        wait_until_ready(one, HANG)
        assert one.failure() is None
        processes = family(os.getpid())
    finally:
        one.stop(drain=False)
    assert one.poll() is not None
    assert isinstance(one.failure(), ServerError)
    wait_until(lambda: not traces({one._process.pid: processes[one._process.pid]}))
