"""The container that serves a repository."""

from __future__ import annotations

import csv
import dataclasses
import os
import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delugeserve._version import __version__
from delugeserve.artifacts.repository import StoredModel
from delugeserve.errors import PlanError, UsageError
from delugeserve.runtimes import BACKENDS
from delugeserve.runtimes.base import PYTHON_RUNTIME
from delugeserve.serving.containers import (
    DEFAULT_RELEASE,
    TENSORRT_RELEASES,
    choose_image,
    container_command,
)
from delugeserve.serving.front.keys import add_key
from delugeserve.serving.front.security import Security

OURS = f"delugeserve:{__version__}"


@pytest.fixture
def stored(tmp_path, make_manifest, make_plan_details):
    """A stored model of a backend, with the version of TensorRT that built it."""

    def make(name, backend, *, built_by=None, runtime=""):
        folder = tmp_path / "repository" / name
        (folder / "1").mkdir(parents=True)
        if built_by:
            engine = dataclasses.replace(make_plan_details(), version=built_by)
            manifest = make_manifest(model=name, backend=backend, engine=engine)
            manifest.write(folder / "1")
        return StoredModel(name, folder, backend, complete=True, version=1, runtime=runtime)

    return make


def values(command, option):
    return [word.partition("=")[2] for word in command if word.startswith(f"{option}=")]


def test_onnxruntime_runs_in_nvidias_image_as_it_is(stored):
    image = choose_image([stored("a", "onnxruntime")])
    assert image.name == f"nvcr.io/nvidia/tritonserver:{DEFAULT_RELEASE}-py3"
    assert (image.supervised, image.gpu, image.build) == (False, False, ())


@pytest.mark.parametrize(("version", "release"), TENSORRT_RELEASES.items())
def test_a_plan_runs_in_the_image_that_has_its_tensorrt(stored, version, release):
    image = choose_image([stored("a", "tensorrt", built_by=version)])
    assert image.name == f"nvcr.io/nvidia/tritonserver:{release}-py3"
    assert image.gpu
    assert version in image.reason


def test_openvino_runs_in_our_image(stored):
    image = choose_image([stored("a", "openvino", runtime=PYTHON_RUNTIME)])
    assert image.name == OURS
    assert image.supervised
    assert "deploy/docker/Dockerfile" in image.build
    assert not image.external_server


@pytest.mark.parametrize("backend", ["python", "openvino", "tensorrt_rtx"])
def test_a_plan_with_a_model_of_ours_runs_in_our_image_of_its_release(stored, backend):
    image = choose_image(
        [stored("a", "tensorrt", built_by="10.9.0.34"), stored("b", backend)],
    )
    assert image.name == f"{OURS}-triton25.04"
    assert "--build-arg=TRITON_TAG=25.04-py3" in image.build
    assert ("--build-arg=EXTRAS=container,tensorrt-rtx" in image.build) == (
        backend == "tensorrt_rtx"
    )
    assert image.external_server


def test_a_python_backend_asked_for_by_name_needs_our_image(stored):
    assert choose_image([stored("a", "onnxruntime", runtime=PYTHON_RUNTIME)]).name == OURS


def test_a_model_of_another_runtime_needs_nvidias_server(stored):
    models = [stored("a", "openvino"), stored("b", "pytorch")]
    assert choose_image(models).name == f"{OURS}-triton{DEFAULT_RELEASE}"


@given(st.lists(st.sampled_from([*BACKENDS, "python", "dali"]), min_size=1, max_size=5))
def test_every_repository_has_an_image(backends):
    models = [StoredModel(f"m{i}", None, name, True) for i, name in enumerate(backends)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("delugeserve.serving.containers._plan_version", lambda model: "10.13.3.9")
        image = choose_image(models)
    on_gpu = {"dali", *(name for name, record in BACKENDS.items() if record.on_gpu)}
    assert image.gpu == bool(on_gpu & set(backends))
    assert bool(image.build) == image.supervised == image.name.startswith("delugeserve:")


def test_an_unknown_tensorrt_is_refused_unless_an_image_is_given(stored):
    models = [stored("a", "tensorrt", built_by="11.1.0.2")]
    with pytest.raises(PlanError) as caught:
        choose_image(models)
    assert caught.value.required == "11.1.0.2"
    assert "--image" in caught.value.remedy
    image = choose_image(models, "example.com/triton:1")
    assert (image.name, image.gpu, image.supervised) == ("example.com/triton:1", True, False)


def test_plans_of_two_versions_do_not_share_a_container(stored):
    models = [
        stored("a", "tensorrt", built_by="10.9.0.34"),
        stored("b", "tensorrt", built_by="10.13.3.9"),
    ]
    with pytest.raises(PlanError) as caught:
        choose_image(models)
    assert {caught.value.required, caught.value.found} == {"10.9.0.34", "10.13.3.9"}


@pytest.mark.parametrize("launcher", ["docker", "podman"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_container_can_write_nowhere_but_in_memory(stored, launcher, backend):
    model = stored("a", backend)
    command = container_command(launcher, model.folder.parent, [model]).run
    assert command[:2] == (launcher, "run")
    assert {"--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"} <= set(command)
    assert values(command, "--tmpfs") == ["/tmp:exec,mode=1777"]
    (mount,) = values(command, "--mount")
    assert f"source={model.folder.parent}" in mount
    assert mount.endswith(",readonly")


def test_only_this_machine_reaches_the_ports(stored):
    model = stored("a", "openvino")
    ports = {"grpc": 9001, "http": 0, "metrics": None}
    command = container_command("docker", model.folder.parent, [model], ports=ports).run
    assert values(command, "--publish") == ["127.0.0.1:9001:8001", "127.0.0.1::8000"]
    for host in ("0.0.0.0", "::", "10.0.0.7"):
        with pytest.raises(UsageError):
            container_command("docker", model.folder.parent, [model], host=host)
    for host, shown in (("::1", "[::1]"), ("localhost", "127.0.0.1")):
        command = container_command("docker", model.folder.parent, [model], host=host).run
        assert values(command, "--publish")[0] == f"{shown}:8001:8001"
    security = Security(insecure=True)
    command = container_command(
        "docker", model.folder.parent, [model], host="0.0.0.0", security=security
    ).run
    assert values(command, "--publish") == [
        "0.0.0.0:8001:8001",
        "0.0.0.0:8000:8000",
        "127.0.0.1:8002:8002",  # the metrics ask nobody for a key
    ]


@pytest.fixture
def security(tmp_path):
    """A certificate, its key and a file of API keys."""
    trustme = pytest.importorskip("trustme", reason="needs the extra 'dev'")
    certificate = trustme.CA().issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "tls.key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    add_key(tmp_path / "keys.txt", "team")
    return Security(tmp_path / "tls.crt", tmp_path / "tls.key", keys=tmp_path / "keys.txt")


def test_a_guarded_server_takes_its_files_along(stored, security, tmp_path):
    model = stored("a", "openvino")
    command = container_command(
        "docker", model.folder.parent, [model], host="0.0.0.0", security=security
    ).run
    assert "--insecure" not in command
    mounted = {
        target: source
        for source, target in (
            re.search(r"source=(.*),target=(.*),readonly", mount).groups()
            for mount in values(command, "--mount")
        )
    }
    for option, file in (("tls-certificate", "tls.crt"), ("tls-key", "tls.key"), ("keys",) * 2):
        (target,) = values(command[command.index("serve") :], f"--{option}")
        assert mounted[target] == str(tmp_path / file.replace("keys", "keys.txt"))
    # Keys without TLS suffice on loopback only, and the container's own address is another.
    half = dataclasses.replace(security, certificate=None, private_key=None)
    command = container_command("docker", model.folder.parent, [model], security=half).run
    assert {"--insecure", "--keys=/etc/delugeserve/keys"} <= set(command)
    with pytest.raises(UsageError):
        container_command("docker", model.folder.parent, [model], host="0.0.0.0", security=half)


def test_nvidias_image_cannot_be_guarded(stored, security):
    model = stored("a", "onnxruntime")
    for host, options in (("127.0.0.1", security), ("0.0.0.0", Security(insecure=True))):
        with pytest.raises(UsageError, match="neither TLS nor authentication"):
            container_command("docker", model.folder.parent, [model], host=host, security=options)


def test_http_is_left_out(stored):
    ports = {"grpc": 8001, "http": None, "metrics": 8002}
    model = stored("a", "openvino")
    command = container_command("docker", model.folder.parent, [model], ports=ports).run
    assert "--no-http" in command
    model = stored("b", "onnxruntime")
    command = container_command("docker", model.folder.parent, [model], ports=ports).run
    assert "--allow-http=false" in command


def test_the_gpu_is_named_as_each_launcher_does(stored):
    model = stored("a", "tensorrt", built_by="10.13.3.9")
    docker = container_command("docker", model.folder.parent, [model]).run
    podman = container_command("podman", model.folder.parent, [model]).run
    assert "--gpus=all" in docker
    assert "--device=nvidia.com/gpu=all" in podman
    assert not set(docker) & {"--device=nvidia.com/gpu=all"}


def test_chosen_models_are_the_only_ones(stored):
    ours, plain = stored("a", "openvino"), stored("b", "onnxruntime")
    repository = ours.folder.parent
    command = container_command("docker", repository, [ours], selected=True).run
    assert "--model=a" in command
    # Triton's explicit mode would let clients load others.
    command = container_command("docker", repository, [plain], selected=True).run
    (mount,) = values(command, "--mount")
    assert f"source={repository / 'b'},target=/models/b" in mount
    assert not any("model-control-mode" in word for word in command)


def test_a_path_with_a_comma_is_one_value(stored, tmp_path):
    folder = tmp_path / 'a, "b"'
    folder.mkdir()
    (mount,) = values(
        container_command("docker", folder, [stored("a", "onnxruntime")]).run, "--mount"
    )
    (row,) = csv.reader([mount])
    assert row == ["type=bind", f"source={folder}", "target=/models", "readonly"]


def test_the_user_who_can_read_the_repository_runs_it(stored, monkeypatch):
    model = stored("a", "onnxruntime")
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    monkeypatch.setattr(os, "getgid", lambda: 99)
    docker = container_command("docker", model.folder.parent, [model]).run
    assert values(docker, "--user") == ["1234:99"]
    assert not values(docker, "--userns")
    podman = container_command("podman", model.folder.parent, [model]).run
    assert values(podman, "--userns") == ["keep-id"]
    monkeypatch.setattr(os, "getuid", lambda: 0)  # then the image's own user does
    assert not values(container_command("docker", model.folder.parent, [model]).run, "--user")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "tensorrt"])
def test_docker_itself_parses_it(stored, backend):
    """Its command line checks the options before it looks for a daemon, of which there is none."""
    if shutil.which("docker") is None:
        pytest.skip("needs docker")
    model = stored("a, b", backend, built_by="10.13.3.9")
    ports = {"grpc": 9001, "http": 0, "metrics": 8002}
    command = container_command("docker", model.folder.parent, [model], ports=ports).run

    def complaint(words):
        environment = {**os.environ, "DOCKER_HOST": "unix:///nonexistent"}
        result = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode != 0
        return result.stderr

    assert "Cannot connect" in complaint(command)
    assert "unknown flag" in complaint(
        [word.replace("--cap-drop", "--cap-dorp") for word in command]
    )
