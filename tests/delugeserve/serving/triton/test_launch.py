"""The command line of a server."""

from __future__ import annotations

import dataclasses

import pytest

from delugeserve.errors import ServerError


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


def test_what_a_configuration_asks_for_is_turned_on(prepare, model, installation):
    asking = dataclasses.replace(model(), uses_cache=True, uses_rate_limiter=True)
    assert "--rate-limit=execution_count" in prepare(asking).command
    assert not [one for one in prepare(asking).command if one.startswith("--cache-directory")]
    installation.caches.mkdir()
    command = prepare(asking).command
    assert f"--cache-directory={installation.caches}" in command
    assert [one for one in command if one.startswith("--cache-config=local,size=")]


def test_a_failed_preparation_leaves_no_folder(prepare, model, temporary):
    with pytest.raises(ServerError):
        prepare(model("pytorch"))
    assert not list(temporary.iterdir())
