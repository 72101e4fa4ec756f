"""Names of models in a repository."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delugeserve.artifacts.names import check_model_name
from delugeserve.errors import ModelNameError


@pytest.mark.parametrize("name", ["flowers", "delugenet38_v2", "a.b-c", "7", "_x", "A" * 128])
def test_names_that_are_folders_addresses_and_arguments(name):
    check_model_name(name)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("my flowers", "my_flowers"),
        ("Süße Blüten", "Susse_Bluten"),
        ("a/b", "a_b"),
        ("..", "model"),
        (".hidden", "hidden"),
        ("-x", "x"),
        ("", "model"),
        ("花", "model"),
        ("line\nbreak", "line_break"),
        ("a" * 129, "a" * 128),
    ],
)
def test_other_names_are_refused_with_the_nearest(name, nearest):
    with pytest.raises(ModelNameError) as caught:
        check_model_name(name)
    assert (caught.value.name, caught.value.nearest) == (name, nearest)


@given(st.text())
def test_the_nearest_name_is_valid(name):
    try:
        check_model_name(name)
    except ModelNameError as error:
        check_model_name(error.nearest)
