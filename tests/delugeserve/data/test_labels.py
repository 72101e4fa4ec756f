"""Labels and class names in the order of the data set's classes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delugeserve.data.labels import align, order_in, simplify
from delugeserve.errors import ClassNameError, DatasetError
from delugeserve.zoo import CIFAR10, CIFAR100, IMAGENET

SOURCE = Path("images")
LABELS = np.arange(20) % 10
OWN_NAMES = tuple(f"cheese {number}" for number in range(10))


def refusal(labels, class_names, task=CIFAR10) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        align(SOURCE, np.asarray(labels, np.int64), class_names, task)
    assert caught.value.path == str(SOURCE)
    return caught.value


@given(st.permutations(CIFAR10.class_names), st.sampled_from([str.upper, str.title, str.lower]))
def test_known_classes_come_out_in_the_data_sets_order(order, spell):
    labels, class_names = align(SOURCE, np.arange(10), tuple(map(spell, order)), CIFAR10)
    assert class_names == CIFAR10.class_names
    assert [class_names[label] for label in labels] == list(order)


def test_class_names_of_the_hubs_cifar100():
    names = [name.replace(" ", "_") for name in CIFAR100.class_names]
    names[names.index("crab")] = "cra"
    assert align(SOURCE, LABELS, tuple(names), CIFAR100)[1] == CIFAR100.class_names


def test_classes_of_the_users_own_are_kept():
    labels, class_names = align(SOURCE, LABELS, OWN_NAMES, CIFAR10)
    assert class_names == OWN_NAMES
    np.testing.assert_array_equal(labels, LABELS)


def test_files_without_class_names_get_the_data_sets():
    assert align(SOURCE, LABELS, None, CIFAR10)[1] == CIFAR10.class_names


def test_no_images():
    refusal([], None)


@pytest.mark.parametrize("label", [-1, 10, 2**40])
def test_a_label_out_of_range(label):
    labels = LABELS.copy()
    labels[13] = label
    error = refusal(labels, None)
    assert error.name == "13"
    assert error.found == label
    assert error.expected == range(10)


# The number of classes


@pytest.mark.parametrize(
    ("class_names", "extra", "missing"),
    [
        ((*CIFAR10.class_names, "__MACOSX"), ("__MACOSX",), ()),
        (("zebra", *CIFAR10.class_names[2:]), ("zebra",), ("airplane", "automobile")),
        ((*CIFAR10.class_names, "Cat"), ("Cat",), ()),
        ((*OWN_NAMES, "cheese 10"), (), ()),
        (("apple", "pear", "plum"), (), ()),
    ],
)
def test_extra_and_missing_classes_are_named(class_names, extra, missing):
    error = refusal(np.arange(len(class_names)), class_names)
    assert (error.found, error.expected) == (len(class_names), 10)
    assert (error.extra, error.missing) == (extra, missing)
    assert all(name in error.problem for name in (*extra, *missing))


def test_of_the_users_own_classes_the_one_without_images_is_extra():
    error = refusal(LABELS + 1, ("__MACOSX", *OWN_NAMES))
    assert error.extra == ("__MACOSX",)
    assert "Remove" in error.remedy


def test_of_wordnet_numbers_the_other_name_is_extra():
    names = ("__MACOSX", *(f"n{number:08d}" for number in range(1000)))
    assert refusal(np.arange(1001), names, IMAGENET).extra == ("__MACOSX",)


def test_images_of_another_data_set_suggest_its_models():
    assert CIFAR100.title in refusal(LABELS, CIFAR100.class_names).remedy


# Names of classes


def test_class_names_in_metadata_are_checked():
    error = refusal(LABELS, (*OWN_NAMES[:9], "a\u2028b"))
    assert isinstance(error, ClassNameError)
    assert error.name == "a\u2028b"


@given(st.text())
def test_simplifying_twice_changes_nothing(name):
    assert simplify(simplify(name)) == simplify(name)


def test_two_classes_that_simplify_to_the_same_are_not_ordered():
    spec = dataclasses.replace(CIFAR100, class_names=IMAGENET.class_names[:2])
    assert order_in(["lawn mower", "Lawn-Mower"], spec) is None
