"""A user's own network, after training: each command works from the task that the files carry."""

import dataclasses
import json
import shutil

import pytest
import torch
from PIL import Image

from delugeserve.artifacts.graphs import read_graph, read_network
from delugeserve.artifacts.labels import read_labels
from delugeserve.artifacts.manifest import read_manifest
from delugeserve.artifacts.model_config import read_config
from delugeserve.errors import UsageError
from delugeserve.networks.build import build_network
from delugeserve.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from delugeserve.zoo import Architecture, ModelSpec, Task
from delugeserve_export.samples import photo_crops

NAMES = ("dog, small: brown", "grün", "собака", "猫", "cra_b-2")
TASK = Task("pets", "Pets", NAMES, 24, 30, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
SPEC = ModelSpec("pets", Architecture("tiny", "cifar", (4, 6), (2, 2)), TASK)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with test images of the classes, and a run with a checkpoint."""
    folder = tmp_path_factory.mktemp("own")
    pictures = iter(photo_crops(40, 8 * len(NAMES)))
    for split in ("train", "test"):
        for name in NAMES:
            (folder / "data" / split / name).mkdir(parents=True)
            for row in range(4):
                Image.fromarray(next(pictures)[2:-2]).save(
                    folder / "data" / split / name / f"{row}.png"
                )
    network = build_network(SPEC, seed=0)
    with torch.no_grad():  # signals of a trained network's size
        for _ in range(5):
            network(torch.randn(16, 3, 24, 24))
        network.head.linear.weight.mul_(10)
    path = folder / "runs" / "pets" / "pets.safetensors"
    save_checkpoint(Checkpoint(SPEC, network.state_dict()), path)
    return folder


@pytest.fixture
def printed(run, folder):
    """What a command prints with --json."""

    def printed(*arguments):
        status, out, err = run(*arguments, "--json")
        assert status == 0, err
        return json.loads(out)

    return printed


@pytest.fixture(scope="module")
def version(folder):
    from delugeserve_export import export, plan_export

    plan = plan_export(
        checkpoint=folder / "runs" / "pets",
        repository=folder / "repository",
        backend="onnxruntime",
        precision="fp32",
        max_batch_size=4,
        data=str(folder / "data"),
    )
    outcome = export(plan)
    assert outcome.published, outcome.problem
    return outcome.folder


def test_an_exported_version_carries_the_task(version):
    assert read_manifest(version).network == SPEC
    assert read_network(read_graph(version / "model.onnx").metadata) == SPEC
    assert read_labels(version / "labels.txt") == NAMES
    config = read_config(version.parent)
    assert config.name == "pets"
    assert set(config.num_classes.values()) == {len(NAMES)}
    assert config.parameters["resize_size"] == "30"


def test_every_kind_of_subject_is_evaluated(printed, folder, version):
    run, data = folder / "runs" / "pets", folder / "data"
    results = [
        printed("evaluate", subject, "--data", data)
        for subject in (run, run / "pets.safetensors", version, version / "model.onnx")
    ]
    for result in results:
        assert result["model"] == "pets"
        assert [one["name"] for one in result["classes"]] == list(NAMES)
        assert result["confusion"] == results[0]["confusion"]
        assert (result["num_images"], result["part"]) == (20, "test")


def test_it_is_verified_and_inspected(printed, run, folder, version):
    assert printed("verify", version)["verification"]["status"] == "passed"
    assert printed("verify", version, "--data", folder / "data")["network"]["name"] == "pets"
    checkpoint = printed("inspect", folder / "runs" / "pets")
    assert checkpoint["model"]["task"]["class_names"] == list(NAMES)
    assert printed("inspect", version)["labels"] == list(NAMES)
    for path in (folder / "runs" / "pets", version, version / "model.onnx"):
        status, out, err = run("inspect", path)
        assert status == 0, err
        for shown in ("'dog, small: brown'", "猫", "24 x 24", "0.4"):
            assert shown in " ".join(out.split())


def test_engines_are_compared_on_its_own_images(printed, folder):
    found = printed(
        "benchmark-engines", "--checkpoint", folder / "runs" / "pets", "--data", folder / "data",
        "--engines", "onnxruntime:fp32", "--batch-size", "2",
    )  # fmt: skip
    assert found["model"] == "pets"
    assert found["engines"][0]["top1_error"] is not None


def test_the_images_that_its_training_held_out_are_used(printed, folder, tmp_path):
    checkpoint = load_checkpoint(folder / "runs" / "pets" / "pets.safetensors")
    flat = shutil.copytree(folder / "data" / "test", tmp_path / "flat")
    subject = tmp_path / "pets.safetensors"
    for data, more, expected in [
        ({}, (), 5),
        ({"val_fraction": 0.5}, (), 10),
        ({"val_fraction": 0.0}, (), 5),
        ({"val_fraction": 0.1}, ("--val-fraction", "0.5"), 10),
    ]:
        save_checkpoint(dataclasses.replace(checkpoint, data=data), subject)
        result = printed("evaluate", subject, "--data", flat, *more)
        assert (result["num_images"], result["part"]) == (expected, "held-out")


@pytest.mark.parametrize("own_images", [True, False])
def test_int8_is_calibrated_on_its_own_images_or_photographs(folder, tmp_path, own_images):
    from delugeserve_export import Int8Options, export, plan_export

    plan = plan_export(
        checkpoint=folder / "runs" / "pets",
        repository=tmp_path,
        backend="onnxruntime",
        precision="int8",
        max_batch_size=4,
        data=str(folder / "data") if own_images else None,
        int8=Int8Options(calibration_images=8, max_drop=100),
    )
    outcome = export(plan)
    assert outcome.published, outcome.problem
    assert outcome.manifest.quantisation.representative is own_images


@pytest.fixture
def refused(run, folder):
    """The error that a command ends with."""

    def refused(*arguments):
        with pytest.raises(UsageError) as caught:
            run("--debug", *arguments)
        return caught.value

    return refused


def test_images_of_other_classes_are_refused(refused, printed, folder, tmp_path):
    subject, data = folder / "runs" / "pets", tmp_path / "data"
    shutil.copytree(folder / "data" / "test", data / "test")
    (data / "test" / "猫").rename(data / "test" / "fish")
    error = refused("evaluate", subject, "--data", data)
    assert (error.extra, error.missing) == (("fish",), ("猫",))
    shutil.copytree(data / "test" / "fish", data / "test" / "猫")
    error = refused("evaluate", subject, "--data", data)
    assert (error.expected, error.found, error.extra) == (5, 6, ("fish",))
    for name in ("fish", "grün"):
        shutil.rmtree(data / "test" / name)
    result = printed("evaluate", subject, "--data", data)
    assert [one["num_images"] for one in result["classes"]] == [4, 0, 4, 4, 4]


def test_another_name_is_refused(refused, folder, version):
    data = folder / "data"
    for subject in (folder / "runs" / "pets", version, version / "model.onnx"):
        error = refused("evaluate", subject, "--model", "flowers", "--data", data)
        assert (error.expected, error.found) == ("flowers", "pets")
    error = refused("evaluate", folder / "runs" / "pets", "--model", "delugenet38", "--data", data)
    assert (error.expected, error.found) == ("delugenet38", "pets")


@pytest.mark.system
def test_a_server_tells_its_task(printed, folder, version):
    from delugeserve.serving.supervisor import serve

    expected = printed("evaluate", version, "--data", folder / "data")
    repository = version.parent.parent
    with serve(repository, grpc_port=0, http_port=None, metrics_port=None, direct=True) as server:
        for more in ((), ("--model", "pets")):
            found = printed("evaluate", server.grpc_url, "--data", folder / "data", *more)
            assert found["model"] == "pets"
            assert found["confusion"] == expected["confusion"]
            assert found["classes"] == expected["classes"]
