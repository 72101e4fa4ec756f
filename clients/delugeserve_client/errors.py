"""The errors a client can meet, as one tree.

::

    ClientError               the base: what is wrong and what to do about it
    ├── AddressError          a server's address is not of a known form
    ├── MissingPackageError   an optional dependency is not installed
    ├── ServerUnavailable     no server answers at the address, or it stopped answering
    │   ├── ServerTimeout     the server did not answer in time
    │   └── WrongProtocol     the port speaks gRPC where HTTP was asked for, or the reverse
    ├── AuthenticationFailed  the server does not accept the client's key, token or certificate
    ├── ModelUnavailable      the server has no such model ready
    │   └── UnsuitableModel   the model does not classify images
    ├── ImageError            an image cannot be read
    ├── BatchError            a batch does not have the shape or dtype that the model takes
    ├── OutputError           the model has no output of this name
    └── InferenceFailed       the server answered a request with an error

Facts that a program may want are attributes. All errors can be pickled, so that worker processes
can raise them.
"""

from __future__ import annotations

from collections.abc import Sequence


class ClientError(Exception):
    """Base class of all errors: one sentence says what is wrong, another what to do about it.

    Args:
        problem: what is wrong, with its full stop.
        remedy: what to do about it, with its full stop.

    Attributes:
        exit_code: exit status of a command line that ends with this error.
    """

    exit_code: int = 2

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem} {self.remedy}"


class AddressError(ClientError):
    """A server's address is not of a known form.

    Attributes:
        url: the address as it was given.
    """

    def __init__(self, problem: str, remedy: str, *, url: str = "") -> None:
        super().__init__(problem, remedy)
        self.url = url


class MissingPackageError(ClientError):
    """An optional dependency is not installed.

    Attributes:
        module: the module that cannot be imported.
    """

    def __init__(self, problem: str, remedy: str, *, module: str = "") -> None:
        super().__init__(problem, remedy)
        self.module = module


class ServerUnavailable(ClientError):
    """No server answers at the address, or it stopped answering.

    Attributes:
        url: the server's address.
        proxy: the proxy that the request went through, without password; empty if none.
    """

    def __init__(self, problem: str, remedy: str, *, url: str = "", proxy: str = "") -> None:
        super().__init__(problem, remedy)
        self.url = url
        self.proxy = proxy


class ServerTimeout(ServerUnavailable):
    """The server did not answer in time.

    Attributes:
        timeout: the time it had, in seconds.
    """

    def __init__(
        self, problem: str, remedy: str, *, url: str = "", proxy: str = "", timeout: float = 0.0
    ) -> None:
        super().__init__(problem, remedy, url=url, proxy=proxy)
        self.timeout = timeout


class WrongProtocol(ServerUnavailable):
    """The port speaks gRPC where HTTP was asked for, or the reverse.

    Attributes:
        found: the protocol that the port speaks: ``grpc`` or ``http``.
    """

    def __init__(self, problem: str, remedy: str, *, url: str = "", found: str = "") -> None:
        super().__init__(problem, remedy, url=url)
        self.found = found


class AuthenticationFailed(ClientError):
    """The server does not accept the client's key, token or certificate, or the reverse.

    Attributes:
        url: the server's address; empty if it was not asked.
    """

    def __init__(self, problem: str, remedy: str, *, url: str = "") -> None:
        super().__init__(problem, remedy)
        self.url = url


class ModelUnavailable(ClientError):
    """The server has no such model ready, or several to choose from and none was named.

    Attributes:
        url: the server's address.
        model: the model asked for; None where none was named.
        version: the version asked for; empty for the server's choice.
        served: names of the models that the server has ready, sorted.
    """

    def __init__(
        self,
        problem: str,
        remedy: str,
        *,
        url: str = "",
        model: str | None = None,
        version: str = "",
        served: Sequence[str] = (),
    ) -> None:
        super().__init__(problem, remedy)
        self.url = url
        self.model = model
        self.version = version
        self.served = tuple(served)


class UnsuitableModel(ModelUnavailable):
    """The model does not classify raw RGB images, so this client cannot use it."""


class ImageError(ClientError):
    """An image cannot be read.

    Attributes:
        source: the image's path, or ``image 3`` for the third image given without one.
    """

    def __init__(self, problem: str, remedy: str, *, source: str = "") -> None:
        super().__init__(problem, remedy)
        self.source = source


class BatchError(ClientError):
    """A batch does not have the shape or dtype that the model takes.

    Attributes:
        expected_shape: shape of a batch that the model takes; None stands for any length.
        expected_dtype: its dtype, such as ``uint8``.
        shape: the batch's shape.
        dtype: the batch's dtype.
    """

    def __init__(
        self,
        problem: str,
        remedy: str,
        *,
        expected_shape: Sequence[int | None] = (),
        expected_dtype: str = "",
        shape: Sequence[int] = (),
        dtype: str = "",
    ) -> None:
        super().__init__(problem, remedy)
        self.expected_shape = tuple(expected_shape)
        self.expected_dtype = expected_dtype
        self.shape = tuple(shape)
        self.dtype = dtype


class OutputError(ClientError):
    """The model has no output of this name.

    Attributes:
        output: the output asked for.
        known: names of the outputs that the model has, sorted.
    """

    def __init__(
        self, problem: str, remedy: str, *, output: str = "", known: Sequence[str] = ()
    ) -> None:
        super().__init__(problem, remedy)
        self.output = output
        self.known = tuple(known)


class InferenceFailed(ClientError):
    """The server answered a request with an error.

    Attributes:
        url: the server's address.
        message: the server's own message.
    """

    exit_code = 1

    def __init__(self, problem: str, remedy: str, *, url: str = "", message: str = "") -> None:
        super().__init__(problem, remedy)
        self.url = url
        self.message = message
