"""What an export changes for the users of a model."""

import dataclasses

import pytest

from delugeserve.artifacts.changes import (
    Change,
    check_classes,
    compare,
    compare_classes,
    describe_manifest,
    find_served,
)
from delugeserve.artifacts.labels import write_labels
from delugeserve.artifacts.model_config import InstanceGroup, classifier_config
from delugeserve.artifacts.records import Origin
from delugeserve.errors import OtherClassesError
from delugeserve.zoo import MODELS


def store(folder, manifest=None, classes=("cat", "dog"), number=1):
    config = classifier_config(
        name=folder.name,
        backend="onnxruntime",
        artefact="model.onnx",
        max_batch_size=8,
        image_size=32,
        num_classes=len(classes),
        instance_group=InstanceGroup(),
        parameters={"resize_size": "36"},
    )
    (folder / str(number)).mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config.serving(number).to_text())
    write_labels(folder / str(number), classes)
    if manifest:
        manifest.write(folder / str(number))
    return find_served(folder)


def test_classes():
    assert compare_classes("abc", "abc") == compare_classes("", "")
    assert not compare_classes("abc", "abc")
    changes = compare_classes("abc", "cbd")
    assert (changes.added, changes.removed, changes.reordered) == (("d",), ("a",), False)
    assert compare_classes("abc", "cba").reordered


def test_facts_of_two_versions_are_compared(tmp_path, make_manifest):
    spec = MODELS["delugenet38"]
    speed = {"fp32": {1: 2.0, 8: 9.0}, "bf16": {1: 1.0}}
    old = make_manifest(
        checkpoint=Origin(file="a", metrics={"top1_error": 9.5}),
        speed=speed,
        environment={"machine": "here"},
    )
    served = store(tmp_path / "net", old, spec.task.class_names)
    task = dataclasses.replace(spec.task, image_size=64, mean=(0.5, 0.5, 0.5))
    new = dataclasses.replace(
        old,
        network=dataclasses.replace(spec, task=task),
        precision="bf16",
        checkpoint=Origin(file="b", metrics={"top1_error": 8.5, "split": "validation"}),
    )
    changes = compare(served, task.class_names, describe_manifest(new))
    assert changes.version == 1
    assert not changes.classes
    assert changes.facts == {
        "image_size": Change(32, 64),
        "mean": Change(spec.task.mean, (0.5, 0.5, 0.5)),
        "precision": Change("fp32", "bf16"),
        "top1_error": Change(9.5, 8.5),
        "top1_error_split": Change("test", "validation"),
        "latency_ms_batch_1": Change(2.0, 1.0),
    }
    elsewhere = dataclasses.replace(new, environment={"machine": "there"})
    facts = compare(served, task.class_names, describe_manifest(elsewhere)).facts
    assert not any(name.startswith("latency") or name == "machine" for name in facts)


def test_a_version_without_manifest_is_known_by_its_configuration(tmp_path, make_manifest):
    served = store(tmp_path / "net")
    assert (served.manifest, served.class_names) == (None, ("cat", "dog"))
    facts = compare(
        served, ("cat", "dog"), describe_manifest(make_manifest(backend="openvino"))
    ).facts
    assert facts == {"backend": Change("onnxruntime", "openvino"), "resize_size": Change(36, 32)}


def test_what_is_not_served_has_no_classes(tmp_path):
    assert find_served(tmp_path / "none") is None
    check_classes(None, ("cat",))
    served = store(tmp_path / "net")
    (tmp_path / "net/1/labels.txt").unlink()
    with pytest.raises(OtherClassesError) as caught:
        check_classes(find_served(tmp_path / "net"), ("cat", "dog"))
    assert caught.value.version == served.number


def test_of_many_classes_a_few_are_named(tmp_path):
    served = store(tmp_path / "net", classes=[f"class{number}" for number in range(100)])
    with pytest.raises(OtherClassesError) as caught:
        check_classes(served, ("cat",))
    assert len(caught.value.removed) == 100
    assert len(caught.value.problem) < 400
    assert "'class4' and 95 more" in caught.value.problem
