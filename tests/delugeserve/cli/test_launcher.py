"""``delugeserve serve --launcher``: the command that it prints."""

from __future__ import annotations

import json
import shlex

import pytest

from delugeserve.artifacts.model_config import InstanceGroup, classifier_config
from delugeserve.runtimes import BACKENDS


@pytest.fixture
def repository(tmp_path):
    """A repository with a model for OpenVINO."""
    record = BACKENDS["openvino"]
    folder = tmp_path / "my models" / "tiny"
    (folder / "1").mkdir(parents=True)
    config = classifier_config(
        name="tiny",
        backend=record.name,
        artefact="model.xml",
        max_batch_size=8,
        image_size=32,
        num_classes=10,
        instance_group=InstanceGroup(record.instance_count, record.instance_kind),
        parameters={},
        runtime=record.triton_runtime,
    )
    (folder / "config.pbtxt").write_text(config.serving(1).to_text())
    return folder.parent


def test_it_prints_what_to_paste(run, repository):
    serve = ("serve", "--repository", repository, "--launcher", "docker", "--dry-run")
    status, out, _ = run(*serve)
    assert status == 0
    build, command = out.split("\n", 1)
    assert shlex.split(build)[:2] == ["docker", "build"]
    words = shlex.split(command.replace("\\\n", ""))  # as a shell joins the lines
    assert words[:2] == ["docker", "run"]
    assert words == json.loads(run(*serve, "--json")[1])["run"]
    assert f"--mount=type=bind,source={repository},target=/models,readonly" in words


def test_ports_and_models_are_those_given(run, repository):
    status, out, _ = run(
        *("serve", "--repository", repository, "--launcher", "podman", "--dry-run", "--json"),
        *("--grpc-port", "9001", "--no-http", "--metrics-port", "0", "--model", "tiny"),
    )
    assert status == 0
    command = json.loads(out)["run"]
    assert [word for word in command if word.startswith("--publish")] == [
        "--publish=127.0.0.1:9001:8001",
        "--publish=127.0.0.1::8002",
    ]
    assert {"--no-http", "--model=tiny"} <= set(command)


@pytest.mark.parametrize(
    "options",
    [
        ["--launcher", "docker"],
        ["--dry-run"],
        ["--image", "example.com/triton:1"],
        ["--launcher", "docker", "--dry-run", "--host", "0.0.0.0"],
        ["--launcher", "docker", "--dry-run", "--model", "tyni"],
        ["--launcher", "doker", "--dry-run"],
    ],
)
def test_what_cannot_be_printed_is_a_mistake(run, repository, options):
    status, out, err = run("serve", "--repository", repository, *options)
    assert (status, out) == (2, "")
    assert "error:" in err
