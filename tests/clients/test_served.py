import copy

import pytest

from delugeserve_client import ModelUnavailable, Prediction, UnsuitableModel
from delugeserve_client.preprocessing import Preprocessing
from delugeserve_client.served import parse_predictions, read_model

METADATA = {
    "name": "net",
    "versions": ["2", "3"],
    "inputs": [{"name": "image", "datatype": "UINT8", "shape": ["-1", "24", "32", "3"]}],
    "outputs": [
        {"name": "logits", "datatype": "FP32", "shape": ["-1", "10"]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
        {"name": "features", "datatype": "FP32", "shape": [-1, 4, 4]},
    ],
}
CONFIG = {"max_batch_size": 8}


def parameters(**values):
    return CONFIG | {"parameters": {k: {"string_value": v} for k, v in values.items()}}


def test_reads_everything_from_the_server():
    model = read_model(METADATA, parameters(resize_size="30", interpolation="box"))
    assert model.image_shape == (24, 32, 3)
    assert model.num_classes == 10
    assert model.outputs == {"logits": 10, "probabilities": 10}
    assert (model.max_batch_size, model.images_per_request) == (8, 8)
    assert (model.version, model.versions) == ("", ("2", "3"))
    assert model.preprocessing.resize_size == 30
    assert model.preprocessing.interpolation == "box"


def test_resize_size_defaults_to_the_inputs():
    preprocessing = read_model(METADATA, CONFIG).preprocessing
    assert (preprocessing.resize_size, preprocessing.interpolation) == (24, "bicubic")


def test_a_model_for_another_preprocessing_is_refused():
    settings = {"resize_size": "30", "interpolation": "box"}
    digest = Preprocessing(24, 32, 30, "box").digest
    model = read_model(METADATA, parameters(**settings, preprocessing=digest))
    assert model.preprocessing.digest == digest
    with pytest.raises(UnsuitableModel, match="another preprocessing") as caught:
        read_model(METADATA, parameters(**settings | {"resize_size": "31"}, preprocessing=digest))
    assert caught.value.model == "net"


def test_a_companion_names_the_model_to_ask():
    with pytest.raises(UnsuitableModel) as caught:
        read_model(METADATA | {"name": "net_image"}, parameters(companion_of="net"))
    assert "'net'" in caught.value.remedy


def test_huge_images_go_in_smaller_requests():
    metadata = copy.deepcopy(METADATA)
    metadata["inputs"][0]["shape"] = [-1, 2048, 2048, 3]
    assert read_model(metadata, {"max_batch_size": 64}).images_per_request == 2
    metadata["inputs"][0]["shape"] = [-1, 9000, 9000, 3]
    assert read_model(metadata, {"max_batch_size": 64}).images_per_request == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m["inputs"].append(m["inputs"][0]), "2 inputs"),
        (lambda m: m["inputs"].clear(), "0 inputs"),
        (lambda m: m["inputs"][0].update(datatype="FP32"), "FP32"),
        (lambda m: m["inputs"][0].update(shape=[-1, 3, 32, 32]), r"\[-1, 3, 32, 32\]"),
        (lambda m: m["inputs"][0].update(shape=[-1, -1, -1, 3]), "instead of UINT8"),
        (lambda m: m["inputs"][0].update(shape=[-1, 32]), "instead of UINT8"),
        (lambda m: m["outputs"].pop(1), "no output 'probabilities'"),
        (lambda m: m["outputs"][1].update(datatype="FP16"), "no output 'probabilities'"),
        (lambda m: m["outputs"][1].update(shape=[-1, -1]), "no output 'probabilities'"),
    ],
)
def test_refuses_models_of_another_form(change, says):
    metadata = copy.deepcopy(METADATA)
    change(metadata)
    with pytest.raises(ModelUnavailable, match=says):
        read_model(metadata, CONFIG)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "max_batch_size"),
        (parameters(resize_size="23"), "resize_size '23'"),
        (parameters(resize_size="big"), "resize_size 'big'"),
        (parameters(resize_size=""), "resize_size ''"),
        (parameters(interpolation="nearest"), "nearest"),
    ],
)
def test_refuses_configurations_of_another_form(config, says):
    with pytest.raises(ModelUnavailable, match=says):
        read_model(METADATA, config)


def test_parses_the_classification_extension():
    row = [
        b"0.900000:3:cat",
        b"0.050000:12:",
        b"0.030000:4",
        b"0.02:7:ratio 1:2: wide",
        b"1e-3:0:\xc3\xa9",
    ]
    assert parse_predictions(row) == (
        Prediction("cat", 3, 0.9),
        Prediction("class 12", 12, 0.05),
        Prediction("class 4", 4, 0.03),
        Prediction("ratio 1:2: wide", 7, 0.02),
        Prediction("é", 0, 0.001),
    )


@pytest.mark.parametrize(("versions", "digest"), [(["1"], "0123456789abcdef"), (["1", "2"], None)])
def test_the_digest_of_the_artefact(versions, digest):
    metadata = METADATA | {"versions": versions}
    assert read_model(metadata, parameters(artifact="0123456789abcdef")).digest == digest
    assert read_model(metadata, CONFIG).digest is None
