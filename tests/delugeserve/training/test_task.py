"""Which network a run trains: the registered model, or one for the classes of the data."""

import dataclasses
import shutil

import pytest

from delugeserve.data.catalogue import open_source
from delugeserve.errors import ModelNameError, UnknownNameError, UsageError
from delugeserve.training.config import TaskOptions
from delugeserve.training.task import choose_task
from delugeserve.zoo import CIFAR10, IMAGENET, MODELS

MODEL = MODELS["delugenet38"]
FLOWERS = ("daisy", "rose", "tulip")


@pytest.fixture
def choose(write_class_folders, tmp_path):
    """Choose the task for class folders of some names."""

    def choose(names, folder="runs/flowers", initial=None, **options):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        data = write_class_folders(tmp_path / "data", names)
        return choose_task(
            MODEL, open_source(data), tmp_path / folder, TaskOptions(**options), initial=initial
        )

    return choose


def test_a_registered_data_set_keeps_the_model_s_task(choose):
    chosen = choose(sorted(CIFAR10.class_names, reverse=True))
    assert (chosen.own, chosen.spec) == (False, MODEL)
    assert choose(CIFAR10.class_names, name="mine").spec == dataclasses.replace(MODEL, name="mine")
    assert not choose(CIFAR10.class_names, image_size=32).own


def test_other_classes_are_a_task_of_their_own(choose):
    chosen = choose(FLOWERS)
    task = chosen.spec.task
    assert chosen.own
    assert (chosen.spec.name, task.name, task.class_names) == ("flowers", "flowers", FLOWERS)
    assert (task.image_size, task.resize_size) == (32, 32)
    assert chosen.spec.architecture == MODEL.architecture
    assert chosen.spec.published is None
    # Measured: the images are plain, one grey level for each class.
    assert task.mean == pytest.approx((100 / 255,) * 3, abs=1e-3)
    assert chosen.normalised_by == "of 24 training images"
    assert chosen.note == ""


def test_some_of_a_registered_task_s_classes_are_no_less_a_task(choose):
    chosen = choose(("cat", "dog"))
    assert chosen.spec.task.class_names == ("cat", "dog")
    assert chosen.note.startswith("all of these 2 classes are among the 10 of CIFAR-10")
    assert choose(("cat", "wolf")).note.startswith("1 of these 2 classes")


def test_another_size_or_normalisation_is_another_task(choose):
    names = sorted(CIFAR10.class_names, reverse=True)
    chosen = choose(names, image_size=64)
    assert (chosen.own, chosen.spec.task.image_size) == (True, 64)
    assert chosen.spec.task.class_names == CIFAR10.class_names, "in the registered order"
    task = choose(names, normalise="imagenet").spec.task
    assert (task.mean, task.std) == (IMAGENET.mean, IMAGENET.std)


def test_the_resize_size_keeps_its_ratio(write_class_folders, tmp_path):
    catalogue = open_source(write_class_folders(tmp_path / "data", FLOWERS))
    chosen = choose_task(
        MODELS["delugenet92"], catalogue, tmp_path / "flowers", TaskOptions(image_size=160)
    )
    assert (chosen.spec.task.image_size, chosen.spec.task.resize_size) == (160, 183)


def test_an_initial_checkpoint_gives_size_and_normalisation(choose):
    before = dataclasses.replace(MODEL.task, image_size=48, mean=(0.1, 0.2, 0.3))
    initial = dataclasses.replace(MODEL, task=before)
    task = choose(FLOWERS, initial=initial).spec.task
    assert (task.image_size, task.mean, task.std) == (48, before.mean, before.std)
    task = choose(FLOWERS, initial=initial, image_size=32, normalise="cifar10").spec.task
    assert (task.image_size, task.mean) == (32, CIFAR10.mean)


@pytest.mark.parametrize("size", [1, 30, 33, 225])
def test_a_size_that_does_not_fit(choose, size):
    with pytest.raises(UsageError, match="multiple of 4"):
        choose(FLOWERS, image_size=size)


def test_a_word_that_is_no_normalisation(choose):
    with pytest.raises(UnknownNameError) as caught:
        choose(FLOWERS, normalise="imagnet")
    assert caught.value.nearest == "imagenet"


@pytest.mark.parametrize("name", ["", "my flowers", "../flowers", "-x", ".hidden", "a/b"])
def test_a_name_that_cannot_be_a_file_s(choose, name):
    with pytest.raises(ModelNameError):
        choose(FLOWERS, name=name)


def test_a_registered_name_is_not_given_to_other_classes(choose):
    for options in ({"folder": "runs/delugenet146"}, {"name": "delugenet38"}):
        with pytest.raises(UsageError, match="a registered model") as caught:
            choose(FLOWERS, **options)
        assert "--name" in caught.value.remedy
    with pytest.raises(UsageError, match="a registered model"):
        choose(CIFAR10.class_names, name="delugenet146")


@pytest.mark.parametrize(
    ("folder", "name"),
    [("runs/My Flowers!", "My_Flowers"), ("blümen", "blumen"), ("x" * 200, "x" * 128)],
)
def test_a_folder_s_name_becomes_a_network_s(choose, folder, name):
    assert choose(FLOWERS, folder=folder).spec.name == name
