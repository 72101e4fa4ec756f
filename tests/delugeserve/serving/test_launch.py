"""The command line of a server."""

from __future__ import annotations

import dataclasses

import pytest

from delugeserve.errors import ServerError
from delugeserve.runtimes import plans
from delugeserve.serving import own_backends


def test_command_line(prepare):
    launch = prepare()
    folder = launch.folder.path
    program, *arguments = launch.command
    assert program.endswith("bin/tritonserver")
    assert arguments == [
        f"--model-repository={folder}/models",
        f"--backend-directory={folder}/backends",
        f"--backend-config=python,shm-region-prefix-name={launch.folder.shm_prefix}",
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


def test_an_incomplete_configuration_is_left_to_the_backend(prepare, model):
    launch = prepare(model(complete=False))
    assert "--disable-auto-complete-config" not in launch.command


def test_a_failed_preparation_leaves_no_folder(prepare, model, temporary):
    with pytest.raises(ServerError):
        prepare(model("pytorch"))
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("native", "compatible", "allowed"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
@pytest.mark.usefixtures("gpu")
def test_a_native_backend_may_load_version_compatible_plans(
    prepare,
    installation,
    model,
    monkeypatch,
    make_manifest,
    make_plan_details,
    native,
    compatible,
    allowed,
):
    monkeypatch.setattr(own_backends, "find_spec", lambda name: object())
    monkeypatch.setattr(plans, "installed_version", lambda backend: None)
    monkeypatch.delenv("TRT_VERSION", raising=False)
    if native:
        (installation.backends / "tensorrt").mkdir()
    stored = dataclasses.replace(model("tensorrt"), version=1)
    (stored.folder / "1").mkdir()
    engine = make_plan_details(version_compatible=compatible)
    make_manifest(backend="tensorrt", engine=engine).write(stored.folder / "1")
    option = "--backend-config=tensorrt,version-compatible=true"
    assert (option in prepare(stored).command) is allowed
