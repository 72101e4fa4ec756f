"""The errors a client can meet, as one tree.

::

    ClientError             the base: what is wrong, and what to do about it
    ├── ServerUnavailable   nothing answers at the address, or it stopped answering
    ├── ModelUnavailable    the server does not serve the model asked for
    ├── ImageError          an image cannot be read
    └── InferenceFailed     the server answered a request with an error
"""

from __future__ import annotations


class ClientError(Exception):
    """What is wrong in one sentence, and in another what to do about it.

    Args:
        problem: one sentence, with its full stop.
        remedy: one sentence that says what to do, likewise.
    """

    exit_code = 2

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem} {self.remedy}"


class ServerUnavailable(ClientError):
    """Nothing answers at the address, or it stopped answering."""


class ModelUnavailable(ClientError):
    """The server does not serve the model asked for."""


class ImageError(ClientError):
    """An image cannot be read."""


class InferenceFailed(ClientError):
    """The server answered a request with an error."""

    exit_code = 1
