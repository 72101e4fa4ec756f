"""The task of a served model, as its server tells it."""

from types import SimpleNamespace

import pytest

from delugeserve.errors import SubjectError
from delugeserve.evaluation.subjects import _served_task
from delugeserve.zoo import IMAGENET
from delugeserve_client.preprocessing import Preprocessing
from delugeserve_client.served import PROBABILITIES, ServedModel, parse_predictions

NAMES = ("dog, small: brown", "grün", "猫")


SQUARE = Preprocessing(24, 24, 30)


def classifier(labels, preprocessing=SQUARE):
    """A client of a server that returns the classes in descending order of their indices."""
    outputs = {PROBABILITIES: len(labels)}
    model = ServedModel("pets", "", ("1",), "image", outputs, 4, preprocessing)
    strings = [f"0.5:{index}:{label}".rstrip(":").encode() for index, label in enumerate(labels)]

    def classify(images, top_k):
        assert images[0].shape == model.image_shape
        return [SimpleNamespace(predictions=parse_predictions(strings[::-1][:top_k]))]

    return SimpleNamespace(model=model, classify=classify)


def test_classes_and_sizes_are_the_servers():
    task = _served_task(classifier(NAMES), "localhost:8001")
    assert task.class_names == NAMES
    assert (task.name, task.image_size, task.resize_size) == ("pets", 24, 30)


def test_registered_classes_are_recognised():
    task = _served_task(classifier(IMAGENET.class_names), "localhost:8001")
    assert (task.name, task.title, task.image_size) == ("imagenet", "ImageNet", 24)


@pytest.mark.parametrize("labels", [("", ""), ("class 0", "class 1")])
def test_classes_without_labels_are_numbered(labels):
    assert _served_task(classifier(labels), "localhost:8001").class_names == ("class 0", "class 1")


def test_images_that_are_not_square_are_refused():
    with pytest.raises(SubjectError) as caught:
        _served_task(classifier(NAMES, Preprocessing(24, 32, 30)), "localhost:8001")
    assert "localhost:8001" in caught.value.problem
