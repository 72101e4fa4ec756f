"""The unpickler that runs no code."""

from __future__ import annotations

import contextlib
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from delugeserve.data.readers.pickles import unpickle_table

PROTOCOLS = (2, 3, 4, 5)
VALUES = (
    st.lists(st.integers(-(2**31), 2**31 - 1) | st.text(), max_size=4)
    | st.binary(min_size=1)  # protocol 2 writes empty bytes as a call
    | st.integers(0, 2**40)
    | arrays(np.uint8, array_shapes(max_dims=3))
)
PICKLES = [
    pickle.dumps({"data": np.arange(12, dtype=np.uint8).reshape(3, 4), "labels": [1]}, protocol)
    for protocol in PROTOCOLS
]


@given(st.dictionaries(st.text(), VALUES, max_size=4), st.sampled_from(PROTOCOLS))
def test_tables_are_read_as_pickle_reads_them(table, protocol):
    found = unpickle_table(pickle.dumps(table, protocol))
    assert found.keys() == table.keys()
    for key, value in table.items():
        assert isinstance(found[key], type(value))
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(found[key], value)
        else:
            assert found[key] == value


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            b"\x80\x02cnumpy\nndarray\n}(X\x01\x00\x00\x00aK\x01ub.", id="state-on-a-class"
        ),
        pytest.param(b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", id="dotted-name"),
        pytest.param(b"\x80\x02]r\xff\xff\xff\x7f.", id="a-memo-of-gigabytes"),
        pytest.param(b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", id="bytes-of-exabytes"),
        pytest.param(pickle.dumps([1, 2]), id="not-a-dictionary"),
        pytest.param(pickle.dumps({"data": np.zeros(3, object)}), id="objects"),
        pytest.param(pickle.dumps({"data": np.zeros(3)}), id="floats"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\x1f\x8b\x08", id="not-a-pickle"),
    ],
)
def test_other_pickles_are_refused(data):
    with pytest.raises(pickle.UnpicklingError):
        unpickle_table(data)


@given(st.sampled_from(PICKLES), st.integers(0, 200), st.binary(min_size=1, max_size=4))
def test_a_damaged_pickle_is_read_or_refused(whole, position, damage):
    position %= len(whole)
    data = whole[:position] + damage + whole[position + len(damage) :]
    with contextlib.suppress(pickle.UnpicklingError):
        assert isinstance(unpickle_table(data), dict)
