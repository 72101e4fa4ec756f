"""What the tests of commands share."""

import pytest

from delugeserve.errors import DelugeServeError
from delugeserve_client.errors import ClientError


@pytest.fixture
def error(run):
    """The error that a command ends with: arguments to the exception."""

    def error(*arguments):
        with pytest.raises((DelugeServeError, ClientError)) as caught:
            run("--debug", *arguments)
        return caught.value

    return error
