"""The real server with our backends and real clients, on very small models."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from delugeserve.artifacts.repository import find_models
from delugeserve.errors import PortError, ServerError
from delugeserve.serving import ports, private_folder, procfs
from delugeserve.serving.supervisor import serve
from delugeserve.serving.triton import launch
from delugeserve.serving.triton import server as tritonserver
from delugeserve.serving.triton.installation import find_tritonserver
from delugeserve.serving.triton.readiness import wait_until_ready
from delugeserve.serving.triton.server import TritonServer

pytest.importorskip("onnx", reason="the test models need the extra 'export'")
pytest.importorskip("openvino", reason="the backends need the extra 'server'")
onnxruntime = pytest.importorskip("onnxruntime", reason="the backends need the extra 'server'")
grpc = pytest.importorskip("tritonclient.grpc")
http = pytest.importorskip("tritonclient.http")
if shutil.which("tritonserver") is None:
    pytest.importorskip("pytriton.constants", reason="there is no tritonserver (nvidia-pytriton)")

pytestmark = pytest.mark.system

FREE_PORTS = {"grpc_port": 0, "http_port": None, "metrics_port": None, "direct": True}

HANG = 240  # seconds after which a test counts as hung; no test depends on it
SIZE, CLASSES, POISON = 8, 4, 200
LABELS = ["ant", "bee", "cat", "dog"]
CONFIG = """
backend: "{backend}"
max_batch_size: 16
input {{ name: "image" data_type: TYPE_UINT8 dims: [{size}, {size}, 3] }}
output {{ name: "logits" data_type: TYPE_FP32 dims: [{classes}] }}
output {{ name: "probabilities" data_type: TYPE_FP32 dims: [{classes}]
          label_filename: "1/labels.txt" }}
instance_group {{ count: 1 }}
dynamic_batching {{ max_queue_delay_microseconds: 20000 }}
version_policy {{ specific {{ versions: 1 }} }}
parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}
"""


def build_network(slow: bool = False, poison: int = POISON):
    """Mean colour -> linear -> softmax. An image with a pixel above ``poison`` makes it fail.

    The slow one spends about 60 GFLOP on each batch.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    weight = np.random.default_rng(0).normal(size=(3, CLASSES)).astype(np.float32) / 100
    constants = {
        "weight": weight,
        "axes": np.array([1, 2]),
        "zeros": np.zeros(poison + 1, np.float32),
        "square": np.array([1500, 1500]),
    }
    # The largest pixel, as an index into a table that is too short for it.
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["pixels"], ["peak"], keepdims=0),
        helper.make_node("Cast", ["peak"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["zeros", "index"], ["nothing"]),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["product"]),
    ]
    result = "product"
    if slow:
        nodes.append(helper.make_node("Expand", ["nothing", "square"], ["power0"]))
        for step in range(9):
            names = [f"power{step}", f"power{step}"], [f"power{step + 1}"]
            nodes.append(helper.make_node("MatMul", *names))
        nodes.append(helper.make_node("ReduceMax", ["power9"], ["most"], keepdims=0))
        nodes.append(helper.make_node("Add", ["product", "most"], ["late"]))
        result = "late"
    nodes.append(helper.make_node("Add", [result, "nothing"], ["logits"]))
    nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1))
    image = ["N", SIZE, SIZE, 3]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, image)],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", CLASSES])
            for name in ("logits", "probabilities")
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    checker.check_model(model)
    return model


def add_model(repository: Path, name: str, backend: str = "onnxruntime", **network):
    import onnx
    import openvino

    version = repository / name / "1"
    version.mkdir(parents=True)
    onnx.save(build_network(**network), version / "model.onnx")
    parameter = ("intra_op_thread_count", "1")
    if backend == "openvino":
        converted = openvino.convert_model(version / "model.onnx")
        openvino.save_model(converted, version / "model.xml", compress_to_fp16=False)
        (version / "model.onnx").unlink()
        parameter = ("INFERENCE_NUM_THREADS", "1")
    (version / "labels.txt").write_text("\n".join(LABELS))
    (repository / name / "config.pbtxt").write_text(
        CONFIG.format(
            backend=backend, size=SIZE, classes=CLASSES, key=parameter[0], value=parameter[1]
        )
    )


@pytest.fixture(scope="module", autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The only temporary folder, of this process and of those it starts."""
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr("tempfile.tempdir", None)
        patch.setattr(private_folder, "FALLBACK_FOLDERS", ())
        yield folder


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The space in the name is deliberate: the server's Python backend does not survive one.
    folder = tmp_path_factory.mktemp("model repository")
    add_model(folder, "tiny")
    add_model(folder, "tiny_ov", "openvino")
    # What an exporter at work may leave in the way, which the server alone would stumble over.
    (folder / ".staging" / "1").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "README.md").write_text("models\n")
    return folder


@pytest.fixture(scope="module")
def reference(repository: Path):
    session = onnxruntime.InferenceSession(repository / "tiny" / "1" / "model.onnx")
    return lambda images: dict(
        zip(("logits", "probabilities"), session.run(None, {"image": images}), strict=True)
    )


@pytest.fixture(scope="module")
def server(repository: Path):
    with serve(repository, grpc_port=0, http_port=0, metrics_port=0, direct=True) as running:
        yield running


def images(count: int, seed: int = 0) -> np.ndarray:
    shape = (count, SIZE, SIZE, 3)
    return np.random.default_rng(seed).integers(0, POISON, shape, dtype=np.uint8)


def infer(client_module, client, model: str, batch: np.ndarray, outputs=None):
    tensor = client_module.InferInput("image", batch.shape, "UINT8")
    tensor.set_data_from_numpy(batch)
    wanted = [client_module.InferRequestedOutput(name) for name in outputs] if outputs else None
    return client.infer(model, [tensor], outputs=wanted)


def connect(url: str):
    return contextlib.closing(grpc.InferenceServerClient(url))


@pytest.fixture
def start():
    """Start the command; what a failed test leaves running is stopped."""
    started = []

    def run(*arguments: str, environment=None, **options) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "delugeserve", "serve", "--direct", "--json", "--no-http"]
        free = ["--grpc-port", "0", "--metrics-port", "0"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        # As from a service manager or by its full name: our python3 is not on PATH.
        pipes["env"] = {**os.environ, "PATH": "/usr/bin:/bin", **(environment or {})}
        process = subprocess.Popen([*command, *free, *arguments], **{**pipes, **options})
        started.append(process)
        return process

    yield run
    for process in started:
        process.terminate()
        with contextlib.suppress(ValueError):  # its pipes are closed: it has been read already
            process.communicate(timeout=HANG)


def family(pid: int) -> dict[int, str]:
    """Process numbers and command lines of all descendants."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            if stat[0] != "Z":
                parents[int(entry.name)] = int(stat[1])
    found, todo = {}, [pid]
    while todo:
        parent = todo.pop()
        for child, its_parent in parents.items():
            if its_parent == parent:
                with contextlib.suppress(OSError):
                    command = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
                    found[child] = command
                todo.append(child)
    return found


def folder_of(processes: dict[int, str]) -> Path:
    for command in processes.values():
        if match := re.search(r"--model-repository=(\S+)/models", command):
            return Path(match[1])
    raise AssertionError(processes)


def traces(processes: dict[int, str]) -> list[object]:
    """What is left of a server: processes, its folder, shared memory."""
    folder = folder_of(processes)
    alive = [pid for pid in processes if procfs.is_alive(pid)]
    return [*alive, *Path("/dev/shm").glob(f"{folder.name}*"), *([folder] * folder.exists())]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("model", ["tiny", "tiny_ov"])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_answers_are_the_networks(server: TritonServer, reference, model, protocol):
    module, url = (grpc, server.grpc_url) if protocol == "grpc" else (http, server.http_url)
    batch = images(5)
    with contextlib.closing(module.InferenceServerClient(url)) as client:
        answer = infer(module, client, model, batch)
    for name, expected in reference(batch).items():
        np.testing.assert_allclose(answer.as_numpy(name), expected, rtol=1e-4, atol=1e-5)


def test_serves_what_has_a_configuration(server: TritonServer):
    assert server.models == ["tiny", "tiny_ov"]


@pytest.mark.parametrize("model", ["tiny", "tiny_ov"])
def test_requests_that_arrive_together_share_an_inference(server: TritonServer, reference, model):
    batches = [images(1 + seed % 3, seed) for seed in range(24)]
    deadline, shared = time.monotonic() + HANG, False
    with connect(server.grpc_url) as client, ThreadPoolExecutor(24) as pool:
        while not shared:  # a busy machine may run the threads one after another
            assert time.monotonic() < deadline
            before = client.get_inference_statistics(model).model_stats[0]
            answers = list(pool.map(lambda batch: infer(grpc, client, model, batch), batches))
            after = client.get_inference_statistics(model).model_stats[0]
            for batch, answer in zip(batches, answers, strict=True):
                np.testing.assert_allclose(
                    answer.as_numpy("logits"), reference(batch)["logits"], rtol=1e-4, atol=1e-5
                )
            assert after.inference_count - before.inference_count == sum(map(len, batches))
            shared = after.execution_count - before.execution_count < len(batches)


@pytest.mark.parametrize("model", ["tiny", "tiny_ov"])
def test_only_the_requested_outputs_come_back(server: TritonServer, model):
    with connect(server.grpc_url) as client:
        answer = infer(grpc, client, model, images(1), ["probabilities"])
    assert [output.name for output in answer.get_response().outputs] == ["probabilities"]


@pytest.mark.parametrize("model", ["tiny", "tiny_ov"])
def test_labels_come_with_the_classification_extension(server: TritonServer, reference, model):
    batch = images(1)
    tensor = grpc.InferInput("image", batch.shape, "UINT8")
    tensor.set_data_from_numpy(batch)
    wanted = grpc.InferRequestedOutput("probabilities", class_count=1)
    with connect(server.grpc_url) as client:
        answer = client.infer(model, [tensor], outputs=[wanted]).as_numpy("probabilities")
    best = int(reference(batch)["logits"][0].argmax())
    assert answer[0, 0].decode().split(":")[1:] == [str(best), LABELS[best]]


@pytest.mark.parametrize(
    ("model", "bad"),
    [
        *((name, np.zeros((1, SIZE + 1, SIZE, 3), np.uint8)) for name in ("tiny", "tiny_ov")),
        ("tiny", np.zeros((SIZE, SIZE, 3), np.uint8)),
        ("tiny", np.zeros((17, SIZE, SIZE, 3), np.uint8)),
        # The network itself fails on it; OpenVINO would read past the table without a word.
        ("tiny", np.full((1, SIZE, SIZE, 3), 255, np.uint8)),
    ],
    ids=["height", "height-openvino", "no-batch", "too-many", "poison"],
)
def test_bad_input_is_refused_and_the_server_lives_on(server: TritonServer, model, bad):
    with connect(server.grpc_url) as client:
        with pytest.raises(Exception, match=r"image|input|batch") as caught:
            infer(grpc, client, model, bad)
        assert not re.search(r"Traceback|\.py|/tmp|/usr|File ", str(caught.value))
        assert infer(grpc, client, model, images(1)).as_numpy("logits").shape == (1, CLASSES)


def test_a_bad_request_does_not_spoil_its_neighbours_shape(server: TritonServer):
    with connect(server.grpc_url) as client, ThreadPoolExecutor(8) as pool:
        bad = np.zeros((1, SIZE, SIZE + 2, 3), np.uint8)
        futures = [
            pool.submit(infer, grpc, client, "tiny", bad if turn % 2 else images(1))
            for turn in range(8)
        ]
    assert [future.exception() is None for future in futures] == [True, False] * 4


def test_metrics_are_served(server: TritonServer):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(server.metrics_url) as response:
        assert b"nv_inference_count" in response.read()


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


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


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


def test_a_port_that_is_taken(server: TritonServer, repository: Path):
    taken = server.endpoints.grpc
    with (
        pytest.raises(PortError) as caught,
        serve(repository, grpc_port=taken, http_port=None, metrics_port=None, direct=True),
    ):
        pass
    assert (caught.value.port, caught.value.endpoint) == (taken, "grpc")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_stops_the_command_cleanly(start, repository: Path, number):
    process = start("--repository", str(repository))
    ready = json.loads(process.stdout.readline())
    assert ready["models"] == ["tiny", "tiny_ov"]
    with connect(ready["grpc"]) as client:
        infer(grpc, client, "tiny", images(1))
    processes = family(process.pid)
    assert len(processes) == 4  # the guardian, the server, and two models
    process.send_signal(number)
    out, err = process.communicate(timeout=HANG)
    assert (process.returncode, out) == (0, "")
    assert "delugeserve classify" in err
    assert "Traceback" not in err
    # Removed before the command ends; a killed process may take a moment to go.
    assert not folder_of(processes).exists()
    wait_until(lambda: not traces(processes))


def test_nothing_outlives_a_command_that_is_killed(start, repository: Path):
    process = start("--repository", str(repository), stderr=subprocess.DEVNULL)
    process.stdout.readline()
    processes = family(process.pid)
    process.kill()
    process.wait()
    wait_until(lambda: not traces(processes))


@pytest.mark.parametrize(
    ("victim", "expected"),
    [
        ("triton_python_backend_stub", "process of model 'tiny' died"),
        ("bin/tritonserver", "server died (SIGKILL)"),
        ("guardian.py", "server died"),
    ],
    ids=["model", "server", "guardian"],
)
def test_a_death_is_reported(start, repository: Path, victim, expected):
    process = start("--repository", str(repository), "--model", "tiny")
    process.stdout.readline()
    processes = family(process.pid)
    # The guardian's command line ends in the server's.
    pid = next(
        pid
        for pid, command in processes.items()
        if victim in command and ("guardian.py" in command) == (victim == "guardian.py")
    )
    os.kill(pid, signal.SIGKILL)
    _, err = process.communicate(timeout=HANG)
    assert process.returncode == 1
    assert expected in err
    assert "Last log lines:" in err
    assert "Traceback" not in err
    wait_until(lambda: not traces(processes))


def test_a_users_mistake_exits_with_2(start, tmp_path: Path):
    process = start("--repository", str(tmp_path / "nowhere"))
    out, err = process.communicate(timeout=HANG)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("error: ")
    assert str(tmp_path / "nowhere") in err
    assert "Traceback" not in err


def test_proxies_are_not_used_for_this_machine(start, repository: Path):
    # A proxy that refuses every connection: nothing listens on the discard port.
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), "http://127.0.0.1:9")
    process = start("--repository", str(repository), "--model", "tiny", environment=proxies)
    assert json.loads(process.stdout.readline())["models"] == ["tiny"]


def test_all_addresses(start, repository: Path, tmp_path: Path):
    arguments = ["--repository", str(repository), "--model", "tiny", "--host", "0.0.0.0"]
    process = start(*arguments, "--insecure", "--log", str(tmp_path / "server.log"))
    ready = json.loads(process.stdout.readline())
    assert ready["host"] == "0.0.0.0"
    assert ready["http"] is None
    with connect(ready["grpc"]) as client:
        infer(grpc, client, "tiny", images(1))
    process.terminate()
    _, err = process.communicate(timeout=HANG)
    assert err.startswith("warning: ")
    port = ready["grpc"].rpartition(":")[2]
    assert f"GRPCInferenceService at 0.0.0.0:{port}" in (tmp_path / "server.log").read_text()


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
