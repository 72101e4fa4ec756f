"""Finding a server and laying out what it runs from."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from delugeserve.artifacts.repository import StoredModel
from delugeserve.errors import MissingDeviceError, MissingExtraError, ServerError, UsageError
from delugeserve.serving import server
from delugeserve.system import hardware


@pytest.fixture
def installation(tmp_path: Path) -> server.TritonInstallation:
    """The files of a server, without their contents; the space in the path is deliberate."""
    root = tmp_path / "site packages" / "tritonserver"
    for name in (
        "bin/tritonserver",
        "backends/python/libtriton_python.so",
        "backends/python/triton_python_backend_utils.py",
        "stub/triton_python_backend_stub",
        "libraries/libtriton.so",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
        (root / name).chmod(0o755)
    return server.TritonInstallation(
        root / "bin" / "tritonserver",
        root / "backends",
        root / "stub" / "triton_python_backend_stub",
        root / "libraries",
    )


@pytest.fixture
def prepare(installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    made = []

    def run(*models: StoredModel, endpoints=None, **changes) -> server.Launch:
        endpoints = endpoints or server.Endpoints("127.0.0.1", 8001, None, 8002)
        launch = server.prepare(installation, models or [model(tmp_path)], endpoints, 30)
        made.append(launch)
        return launch

    yield run
    for launch in made:
        os.close(launch.lock)


def model(tmp_path: Path, backend: str = "onnxruntime", complete: bool = True) -> StoredModel:
    folder = tmp_path / "a repository" / "tiny"
    folder.mkdir(parents=True, exist_ok=True)
    return StoredModel("tiny", folder, backend, complete)


def test_the_command_line(prepare):
    launch = prepare()
    program, *arguments = launch.command
    assert program.endswith("bin/tritonserver")
    assert arguments == [
        f"--model-repository={launch.folder}/models",
        f"--backend-directory={launch.folder}/backends",
        f"--backend-config=python,shm-region-prefix-name={launch.shm_prefix}",
        "--exit-timeout-secs=30",
        "--allow-grpc=true",
        "--grpc-address=127.0.0.1",
        "--grpc-port=8001",
        "--allow-http=false",
        "--allow-metrics=true",
        "--metrics-address=127.0.0.1",
        "--metrics-port=8002",
        "--disable-auto-complete-config",
    ]
    assert not any(" " in argument for argument in arguments)


def test_an_incomplete_configuration_is_left_to_the_backend(prepare, tmp_path: Path):
    launch = prepare(model(tmp_path, complete=False))
    assert "--disable-auto-complete-config" not in launch.command


def test_the_private_folder(prepare, installation, tmp_path: Path):
    folder = prepare().folder
    assert (folder / "models" / "tiny").resolve() == tmp_path / "a repository" / "tiny"
    python = folder / "backends" / "python"
    # The server refuses a backend library that is a link out of the backend's folder.
    assert not (python / "libtriton_python.so").is_symlink()
    assert (python / "triton_python_backend_stub").resolve() == installation.stub
    for name in ("onnxruntime", "openvino"):
        assert sorted(path.name for path in (folder / "backends" / name).iterdir()) == [
            "batching.py",
            "model.py",
        ]


def test_the_environment(prepare, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/mine")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    launch = prepare()
    environment = launch.environment
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    # The model processes know their Python and its packages by the first python3 on PATH.
    python = Path(environment["PATH"].split(":")[0]) / "python3"
    found = subprocess.run(
        [python, "-I", "-c", "import numpy, sys; print(numpy.__file__, sys.base_prefix)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert found == [np.__file__, sys.base_prefix]
    ours, libraries, inherited = environment["LD_LIBRARY_PATH"].split(":")
    assert [path.name for path in Path(ours).iterdir()] in (
        [f"libpython3.{sys.version_info.minor}.so.1.0"],
        [],
    )
    assert (Path(libraries) / "libtriton.so").is_file()
    assert inherited == "/opt/mine"


def test_the_backends_of_plans_bring_the_engine_along(prepare, monkeypatch, tmp_path: Path):
    monkeypatch.setattr(
        hardware, "usable_gpus", lambda: (hardware.Gpu("NVIDIA L4", "550.54", "8.9", "23034 MiB"),)
    )
    monkeypatch.setattr(server, "find_spec", lambda name: object())
    launch = prepare(model(tmp_path, "tensorrt_rtx"))
    assert not launch.cpu_only
    for name in ("tensorrt", "tensorrt_rtx"):
        assert sorted(path.name for path in (launch.folder / "backends" / name).iterdir()) == [
            "batching.py",
            "model.py",
            "tensorrt_engine.py",
        ]


def test_a_plan_without_a_gpu_is_refused_before_a_server_is_started(
    prepare, monkeypatch, tmp_path: Path
):
    monkeypatch.setattr(hardware, "usable_gpus", tuple)
    with pytest.raises(MissingDeviceError, match="'tiny' is a TensorRT plan"):
        prepare(model(tmp_path, "tensorrt"))
    assert not list((tmp_path / "temp").iterdir())


def test_a_native_backend_wins_over_ours(prepare, installation, tmp_path: Path):
    (installation.backends / "onnxruntime").mkdir()
    (installation.backends / "onnxruntime" / "libtriton_onnxruntime.so").touch()
    launch = prepare()
    backend = launch.folder / "backends" / "onnxruntime"
    assert backend.resolve() == installation.backends / "onnxruntime"
    assert not launch.cpu_only
    assert prepare(model(tmp_path, "openvino")).cpu_only


@pytest.mark.parametrize(
    ("native", "compatible", "told"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
def test_a_native_backend_is_told_of_plans_that_later_versions_load(
    prepare, installation, monkeypatch, tmp_path: Path, native, compatible, told
):
    monkeypatch.setattr(
        hardware, "usable_gpus", lambda: (hardware.Gpu("NVIDIA L4", "550.54", "8.9", "23034 MiB"),)
    )
    monkeypatch.setattr(server, "find_spec", lambda name: object())
    monkeypatch.setattr(server.plans, "installed_version", lambda backend: None)
    monkeypatch.delenv("TRT_VERSION", raising=False)
    if native:
        (installation.backends / "tensorrt").mkdir()
    stored = dataclasses.replace(model(tmp_path, "tensorrt"), version=1)
    engine = {
        "version": "10.13.3.9",
        "version_compatible": compatible,
        "compute_capabilities": ["8.9"],
        "minimum_compute_capability": None,
        "options": {},
    }
    (stored.folder / "1").mkdir()
    (stored.folder / "1" / "manifest.json").write_text(json.dumps({"engine": engine}))
    option = "--backend-config=tensorrt,version-compatible=true"
    assert (option in prepare(stored).command) is told


def test_a_backend_that_is_not_there(prepare, tmp_path: Path):
    with pytest.raises(ServerError, match=r"needs the backend 'pytorch'.*has onnxruntime, openv"):
        prepare(model(tmp_path, "pytorch"))
    assert not list((tmp_path / "temp").iterdir())


def test_a_runtime_that_is_not_installed(prepare, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"'onnxruntime'.*delugeserve\[server\]"):
        prepare()


def test_the_runtime_of_a_plan_has_an_extra_of_its_own(prepare, monkeypatch, tmp_path: Path):
    monkeypatch.setattr(
        hardware, "usable_gpus", lambda: (hardware.Gpu("NVIDIA L4", "550.54", "8.9", "23034 MiB"),)
    )
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"'tensorrt_rtx'.*delugeserve\[tensorrt-rtx\]"):
        prepare(model(tmp_path, "tensorrt_rtx"))


def test_what_a_killed_guardian_left_is_swept_and_nothing_else(prepare, tmp_path: Path):
    running, dead = prepare(), prepare()
    # The descriptor is shared with the guardian; here it is the only one.
    fcntl.flock(dead.lock, fcntl.LOCK_UN)
    regions = [Path("/dev/shm") / f"{launch.shm_prefix}test" for launch in (running, dead)]
    for region in regions:
        region.touch()
    (tmp_path / "temp" / "delugeserve-of-another-kind").mkdir()
    try:
        server.sweep()
        assert [region.exists() for region in regions] == [True, False]
        assert [launch.folder.exists() for launch in (running, dead)] == [True, False]
        assert (tmp_path / "temp" / "delugeserve-of-another-kind").is_dir()
    finally:
        for region in regions:
            region.unlink(missing_ok=True)


def test_temporary_folders_with_spaces_are_passed_over(prepare, monkeypatch, tmp_path: Path):
    (tmp_path / "with space").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "with space"))
    launch = prepare()
    assert " " not in str(launch.folder)
    server.remove_traces(launch.folder, launch.shm_prefix)


@pytest.mark.parametrize(
    ("patches", "said"),
    [
        ({"system": "Darwin", "machine": "arm64"}, "x86-64 Linux, not on arm64 Darwin"),
        ({"machine": "aarch64"}, "x86-64 Linux, not on aarch64 Linux"),
        (
            {"libc_ver": ("glibc", "2.31")},
            r"glibc 2\.35 or later, and this machine has glibc 2\.31",
        ),
        ({"libc_ver": ("", "")}, "and this machine has another libc"),
    ],
)
def test_machines_it_cannot_run_on(monkeypatch: pytest.MonkeyPatch, patches, said):
    defaults = {"system": "Linux", "machine": "x86_64", "libc_ver": ("glibc", "2.36")}
    for name, value in {**defaults, **patches}.items():
        monkeypatch.setattr(platform, name, lambda value=value: value)
    monkeypatch.setattr(server, "_wheel_folder", lambda: Path("/wheel"))
    with pytest.raises(UsageError, match=said) as caught:
        server.find_tritonserver()
    assert "--tritonserver" in caught.value.remedy
    assert caught.value.problem.endswith(".")


def test_a_python_without_a_shared_library(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "find_libpython", lambda: None)
    monkeypatch.setattr(server, "_wheel_folder", lambda: Path("/wheel"))
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    with pytest.raises(UsageError, match="needs a shared libpython"):
        server.find_tritonserver()


def test_no_server_at_all(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "_wheel_folder", lambda: None)
    monkeypatch.setattr(server, "_check_machine", lambda: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingExtraError, match=r"nvidia-pytriton.*delugeserve\[server\]"):
        server.find_tritonserver()


def test_a_server_on_the_path_or_by_name(monkeypatch, installation, tmp_path: Path):
    monkeypatch.setattr(server, "_wheel_folder", lambda: None)
    monkeypatch.setenv("PATH", str(installation.executable.parent))
    for found in (server.find_tritonserver(), server.find_tritonserver(installation.executable)):
        assert found.backends == installation.backends
        assert found.stub is None
    with pytest.raises(UsageError, match="There is no program"):
        server.find_tritonserver(tmp_path / "absent")


def test_a_program_that_is_no_installation(tmp_path: Path):
    lone = tmp_path / "tritonserver"
    lone.write_text("")
    lone.chmod(0o755)
    if Path("/opt/tritonserver/backends").is_dir():
        pytest.skip("this machine has a server in the usual place")
    with pytest.raises(UsageError, match="no folder of backends"):
        server.find_tritonserver(lone)
