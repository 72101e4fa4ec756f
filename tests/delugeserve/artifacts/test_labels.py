"""Class names: one per line, whatever else the names contain."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delugeserve.artifacts.labels import (
    FILE_NAME,
    check_class_names,
    read_labels,
    split_names,
    write_labels,
)
from delugeserve.errors import ClassNameError, RepositoryError

BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
names = st.text(st.characters(codec="utf-8", exclude_characters=BREAKS), min_size=1)


@given(class_names=st.lists(names))
def test_class_names_are_read_back_equal(tmp_path_factory, class_names):
    folder = tmp_path_factory.mktemp("version")
    write_labels(folder, class_names)
    assert read_labels(folder / FILE_NAME) == tuple(class_names)


@pytest.mark.parametrize(
    "name", ["", *(f"tabby{mark}cat" for mark in BREAKS), "cat\n", "\u2028", "caf\udce9", "\ud800"]
)
def test_names_that_no_label_file_can_hold_are_refused(tmp_path, name):
    with pytest.raises(ClassNameError) as caught:
        check_class_names(["dog", name], "/data/pets")
    caught.value.problem.encode()  # the name is escaped
    assert len(caught.value.problem.splitlines()) == 1
    assert (caught.value.name, caught.value.path) == (name, "/data/pets")
    with pytest.raises(ClassNameError):
        write_labels(tmp_path, [name])
    assert not (tmp_path / FILE_NAME).exists()


def test_lines_end_at_newlines_only(tmp_path):
    """As Triton reads a file that somebody else wrote."""
    path = tmp_path / FILE_NAME
    path.write_bytes("tabby\u2028cat\ndog\r\n\nlast".encode())
    assert read_labels(path) == ("tabby\u2028cat", "dog\r", "", "last")
    path.write_bytes(b"caf\xe9\n")
    assert read_labels(path) == ("caf\N{REPLACEMENT CHARACTER}",)
    path.write_bytes(b"")
    assert read_labels(path) == ()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RepositoryError, match=FILE_NAME):
        read_labels(tmp_path / FILE_NAME)


def test_nothing_else_splits_names(tmp_path):
    """The classes of the registry and of archives are read alike."""
    for split in (split_names, lambda text: read_labels(write(tmp_path, text))):
        assert split("tabby\u2028cat\ndog\x85fox\n") == ("tabby\u2028cat", "dog\x85fox")


def write(folder, text):
    path = folder / FILE_NAME
    path.write_bytes(text.encode())
    return path
