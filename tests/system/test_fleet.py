"""A supervised fleet: real servers behind a real Envoy, which are killed, replaced and upgraded."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import HANG, wait_until

from delugeserve.artifacts.promotion import clear_canary, promote
from delugeserve.errors import ServerError
from delugeserve.serving import procfs
from delugeserve.serving.fleet.settled import wait_until_served
from delugeserve.serving.fleet.status import find_servers
from delugeserve.serving.fleet.supervisor import Supervisor
from delugeserve.serving.supervisor import serve

pytest.importorskip("onnx", reason="the test model needs the extra 'export'")
pytest.importorskip("starlette", reason="the gateway needs the extra 'server'")
pytest.importorskip("pytriton.constants", reason="there is no tritonserver (nvidia-pytriton)")
grpc = pytest.importorskip("tritonclient.grpc")

OTHER_CLASSES = tuple(f"class {index}" for index in range(10))


@pytest.fixture(scope="module", autouse=True)
def runtime(tmp_path_factory) -> Iterator[Path]:
    """The folder with the status files, of this process and of those it starts."""
    folder = tmp_path_factory.mktemp("runtime")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def repository(exported, tmp_path_factory) -> Path:
    """The model ``tiny`` with two versions of other weights and other classes; 1 is served."""
    import torch

    from delugeserve.networks.build import build_network
    from delugeserve.networks.checkpoint import Checkpoint, save_checkpoint
    from delugeserve.zoo import CIFAR10, Architecture, ModelSpec
    from delugeserve_export import export, plan_export

    folder = tmp_path_factory.mktemp("a fleet")  # with a space, which breaks a stub that sees it
    repository = Path(shutil.copytree(exported, folder / "model_repository"))
    task = dataclasses.replace(CIFAR10, class_names=OTHER_CLASSES)
    spec = ModelSpec("tiny", Architecture("tiny", "cifar", (4, 6), (2, 2)), task)
    network = build_network(spec, seed=1)
    with torch.no_grad():
        for _ in range(5):
            network(torch.randn(32, 3, 32, 32))
        network.head.linear.weight.mul_(10)
    save_checkpoint(Checkpoint(spec, network.state_dict()), folder / "tiny.safetensors")
    plan = plan_export(
        spec,
        folder / "tiny.safetensors",
        repository=repository,
        backend="onnxruntime",
        precision="fp32",
        max_batch_size=8,
        replace_classes=True,
    )
    assert export(plan).published
    promote(repository, "tiny", 1, replace_classes=True)
    return repository


@pytest.fixture(scope="module")
def fleet(repository) -> Iterator[Supervisor]:
    with serve(repository, grpc_port=0, http_port=0, metrics_port=0) as running:
        yield running


@pytest.fixture
def at_full_strength(fleet, repository) -> Supervisor:
    """The fleet, serving version 1 again."""
    clear_canary(repository)
    promote(repository, "tiny", 1, replace_classes=True)
    wait_until(lambda: fleet.fleet.full_strength and version(fleet) == 1)
    return fleet


class Load:
    """Clients without retries of their own, until the block ends.

    Attributes:
        answers: of each request, the served version and the label of the answer.
        failures: of each failed request, why.
    """

    def __init__(self, url: str, clients: int = 4) -> None:
        self.answers: list[tuple[str, str]] = []
        self.failures: list[str] = []
        self._done = threading.Event()
        self._url = url
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        wait_until(lambda: len(self.answers) > 10)
        return self

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int = 20) -> None:
        """Wait for more answers."""
        wanted = len(self.answers) + count
        wait_until(lambda: len(self.answers) >= wanted)

    def _run(self) -> None:
        with contextlib.closing(grpc.InferenceServerClient(self._url)) as client:
            while not self._done.is_set():
                try:
                    self.answers.append(ask(client))
                except Exception as error:
                    self.failures.append(str(error))
                    time.sleep(0.01)


def ask(client) -> tuple[str, str]:
    tensor = grpc.InferInput("image", [1, 32, 32, 3], "UINT8")
    tensor.set_data_from_numpy(np.zeros((1, 32, 32, 3), np.uint8))
    wanted = [grpc.InferRequestedOutput("probabilities", class_count=1)]
    answer = client.infer("tiny", [tensor], outputs=wanted)
    label = answer.as_numpy("probabilities").reshape(-1)[0].decode().split(":", 2)[2]
    return answer.get_response().model_version, label


def version(fleet: Supervisor) -> int | None:
    release = fleet.releases.get(fleet.fleet.current or "")
    return release.versions["tiny"] if release else None


def active(fleet: Supervisor) -> int:
    return fleet.fleet.routes.active[0]


def model_process(fleet: Supervisor, number: int) -> int:
    session = fleet.replicas.session(number)
    found = procfs.model_processes(session)
    return next(pid for pid, model in found.items() if model == "tiny")


def lose(fleet: Supervisor, pid: int, number: int, how: signal.Signals) -> None:
    """Send a signal, and wait until its replica is replaced and all is well again."""
    os.kill(pid, how)
    wait_until(lambda: fleet.fleet.find(number) is None)
    wait_until(lambda: fleet.fleet.full_strength)


@pytest.mark.parametrize("victim", ["server", "model"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_no_request_fails_when_a_process_is_lost(at_full_strength, victim, how):
    fleet = at_full_strength
    number = active(fleet)
    pid = fleet.replicas.pid(number) if victim == "server" else model_process(fleet, number)
    with Load(fleet.grpc_url) as load:
        lose(fleet, pid, number, how)
        load.more()
    assert load.failures == []
    assert len(set(load.answers)) == 1


def test_a_new_version_takes_over_without_a_gap(at_full_strength, repository):
    fleet = at_full_strength
    with Load(fleet.grpc_url) as load:
        promote(repository, "tiny", 2, replace_classes=True)
        wait_until_served(repository)
        load.more()
    assert load.failures == []
    # Every answer has the labels of its own version.
    assert len(set(load.answers)) == 2
    for number, label in set(load.answers):
        assert (label in OTHER_CLASSES) == (number == "2")
    assert load.answers[-1][0] == "2"


def test_a_release_that_fails_its_proof_changes_nothing(at_full_strength, repository, tmp_path):
    fleet = at_full_strength
    artefact = repository / "tiny" / "2" / "model.onnx"
    kept = shutil.copy(artefact, tmp_path)
    config = repository / "tiny" / "config.pbtxt"
    text = config.read_text()
    try:
        # Version 2 with the weights of version 1: it loads, and answers otherwise.
        artefact.write_bytes((repository / "tiny" / "1" / "model.onnx").read_bytes())
        text_of_2 = text.replace("versions: 1", "versions: 2").replace("1/labels", "2/labels")
        config.write_text(text_of_2)
        wait_until(lambda: fleet.fleet.rejected)
        assert "version 2, does not answer as it was exported" in fleet.fleet.rejected.reason
        assert version(fleet) == 1
        assert fleet.fleet.pending is None
        with contextlib.closing(grpc.InferenceServerClient(fleet.grpc_url)) as client:
            assert ask(client)[0] == "1"
    finally:
        shutil.copy(kept, artefact)
        config.write_text(text)


def test_a_canary_gets_its_share(at_full_strength, repository):
    fleet = at_full_strength
    set_canary_of_other_classes(repository)
    wait_until(lambda: fleet.fleet.routes.canary and fleet.fleet.full_strength)
    with Load(fleet.grpc_url) as load:
        load.more(200)
    assert load.failures == []
    share = sum(number == "2" for number, _ in load.answers) / len(load.answers)
    assert 0.2 < share < 0.8
    for number, label in set(load.answers):
        assert (label in OTHER_CLASSES) == (number == "2")
    wait_until(lambda: fleet.frontend.traffic and fleet.frontend.traffic[0].requests)
    clear_canary(repository)
    wait_until(lambda: not fleet.fleet.routes.canary and fleet.fleet.full_strength)
    with contextlib.closing(grpc.InferenceServerClient(fleet.grpc_url)) as client:
        assert {ask(client)[0] for _ in range(20)} == {"1"}


def set_canary_of_other_classes(repository: Path) -> None:
    """Give version 2 half of the requests, although it has other classes."""
    (repository / ".canary.json").write_text(
        json.dumps({"model": "tiny", "version": 2, "share": 0.5})
    )


def test_envoy_and_the_gateway_are_started_again(at_full_strength):
    fleet = at_full_strength
    before = {part.name: part.starts for part in fleet.fleet.parts}
    for session in (fleet.frontend.front.session, fleet.frontend.gateway.pid):
        (pid,) = procfs.children(session, session)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not all(part.running for part in fleet.fleet.parts))
        wait_until(lambda: fleet.fleet.full_strength)
    assert {part.name: part.starts - before[part.name] for part in fleet.fleet.parts} == {
        "front": 1,
        "gateway": 1,
    }
    stream = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(stream, "PNG")
    host, _, port = fleet.http_url.partition(":")
    with contextlib.closing(http.client.HTTPConnection(host, int(port))) as connection:
        connection.request("POST", "/classify", stream.getvalue())
        answer = json.loads(connection.getresponse().read())
    assert (answer["model"], answer["version"]) == ("tiny", "1")


def test_the_status_tells_what_runs(at_full_strength, repository):
    def settled():
        (status,) = find_servers(repository)
        states = sorted(one.state for one in status.replicas)
        measured = all(one.memory_bytes for one in status.replicas)
        return status.state == "serving" and states == ["active", "standby"] and measured

    wait_until(settled)  # earlier tests may have left a replica that drains
    (status,) = find_servers(repository)
    assert status.release.versions == {"tiny": 1}
    assert all(one.pid and one.metrics for one in status.replicas)
    assert [part.name for part in status.parts] == ["front", "gateway"]
    assert status.counters["replica.active"] >= 1
    assert find_servers(repository.parent) == []


@pytest.fixture
def start(repository):
    """Start the command; what a failed test leaves running is stopped."""
    started = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "delugeserve", "serve", "--json", "--no-http"]
        ports = ["--grpc-port", "0", "--metrics-port", "0", "--repository", str(repository)]
        process = subprocess.Popen(
            [*command, *ports, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate(timeout=HANG)


def test_sigterm_under_load_answers_what_was_accepted(start, tmp_path):
    process = start("--standby", "0", "--log", str(tmp_path / "log.jsonl"))
    ready = json.loads(process.stdout.readline())
    with Load(ready["grpc"]) as load:
        process.terminate()
        process.wait(timeout=HANG)
    assert process.returncode == 0
    # New connections are refused; nothing that was accepted is lost.
    assert all("failed to connect" in reason for reason in load.failures), set(load.failures)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {"replica.active", "fleet.stopping", "fleet.ended"} <= {
        line["event"] for line in lines if "event" in line
    }
    assert {"replica-1", "front"} <= {line["source"] for line in lines if "source" in line}


def test_nothing_outlives_a_killed_supervisor(start, runtime):
    process = start("--standby", "0")
    process.stdout.readline()
    assert process.pid in [one.pid for one in find_servers()]
    guardians = children(process.pid)
    assert len(guardians) == 3  # of a server, of Envoy and of the gateway
    sessions = [pid for guardian in guardians for pid in procfs.session_members(guardian)]
    assert len(sessions) >= 5  # the server has a process for each model
    process.kill()
    process.wait()
    wait_until(lambda: not any(map(procfs.is_alive, [*guardians, *sessions])))
    assert process.pid not in [one.pid for one in find_servers()]
    assert not list(runtime.glob(f"delugeserve/{process.pid}-*"))


def children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.name))
    return found


def test_a_release_that_cannot_be_proved_is_not_served_at_all(repository, tmp_path):
    broken = Path(shutil.copytree(repository, tmp_path / "broken"))
    (broken / "tiny" / "1" / "model.onnx").write_bytes(
        (broken / "tiny" / "2" / "model.onnx").read_bytes()
    )
    with (
        pytest.raises(ServerError) as caught,
        serve(broken, grpc_port=0, http_port=None, metrics_port=None, standby=0),
    ):
        pass
    assert list(caught.value.reasons) == ["tiny"]
