import inspect
import pickle

import pytest

from delugeserve_client import errors

ALL = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, errors.ClientError)
]


@pytest.mark.parametrize("kind", ALL)
def test_errors_can_be_pickled(kind):
    parameters = list(inspect.signature(kind).parameters)[2:]
    error = kind("It failed.", "Try again.", **{name: f"some {name}" for name in parameters})
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert vars(copy) == vars(error)
    assert set(parameters) < set(vars(copy))
    assert str(copy) == "It failed. Try again."


def test_the_docstring_draws_the_whole_tree():
    for kind in ALL:
        assert f"─ {kind.__name__} " in errors.__doc__ or kind is errors.ClientError
