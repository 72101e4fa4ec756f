"""The errors a client can meet, as one tree.

::

    ClientError               the base: what is wrong and what to do about it
    ├── AddressError          a server's address is not of a known form
    ├── MissingPackageError   an optional dependency is not installed
    ├── ArgumentError         an argument is out of range; also a ValueError
    ├── ClassifierClosed      the classifier was closed
    ├── ForkedClassifier      the classifier was made in another process
    ├── ServerUnavailable     no server answers at the address
    │   ├── ServerGone        it stopped answering
    │   ├── ServerDraining    it is starting or stopping, and takes no requests
    │   ├── ServerTimeout     it did not answer in time
    │   └── WrongProtocol     the port speaks gRPC where HTTP was asked for, or the reverse
    ├── AuthenticationFailed  the server does not accept the client's key, token or certificate
    ├── ModelUnavailable      the server has no such model ready
    │   └── UnsuitableModel   the model does not classify images
    ├── ImageError            an image cannot be read
    ├── BatchError            a batch does not have the shape or dtype that the model takes
    ├── OutputError           the model has no output of this name
    └── InferenceFailed       the server answered a request with an error
        ├── RequestRefused    it does not take such a request
        └── ServerOverloaded  it has more requests than it can answer
            └── QueueFull     the model's queue has no room

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


class ArgumentError(ClientError, ValueError):
    """An argument is out of range.

    Attributes:
        argument: its name.
        value: the value given, as text.
    """

    def __init__(self, problem: str, remedy: str, *, argument: str = "", value: str = "") -> None:
        super().__init__(problem, remedy)
        self.argument = argument
        self.value = value


class ClassifierClosed(ClientError):
    """The classifier was closed, so that it sends nothing any more."""


class ForkedClassifier(ClientError):
    """The classifier was made in another process, whose connections this one cannot use.

    Attributes:
        pid: the process that made it.
    """

    def __init__(self, problem: str, remedy: str, *, pid: int = 0) -> None:
        super().__init__(problem, remedy)
        self.pid = pid


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


class ServerGone(ServerUnavailable):
    """The server stopped answering: the connection broke, or the server hangs."""


class ServerDraining(ServerUnavailable):
    """The server is starting or stopping, and takes no requests.

    Attributes:
        retry_after: seconds after which it asks to be asked again; 0 if it does not say.
    """

    def __init__(
        self, problem: str, remedy: str, *, url: str = "", proxy: str = "", retry_after: float = 0.0
    ) -> None:
        super().__init__(problem, remedy, url=url, proxy=proxy)
        self.retry_after = retry_after


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


class RequestRefused(InferenceFailed):
    """The server does not take such a request, however often it is sent.

    Attributes:
        status: gRPC's name of the status, such as ``INVALID_ARGUMENT``, or HTTP's number.
    """

    def __init__(
        self, problem: str, remedy: str, *, url: str = "", message: str = "", status: str = ""
    ) -> None:
        super().__init__(problem, remedy, url=url, message=message)
        self.status = status


class ServerOverloaded(InferenceFailed):
    """The server, or what is in front of it, has more requests than it can answer.

    Attributes:
        retry_after: seconds after which it asks to be asked again; 0 if it does not say.
    """

    def __init__(
        self,
        problem: str,
        remedy: str,
        *,
        url: str = "",
        message: str = "",
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(problem, remedy, url=url, message=message)
        self.retry_after = retry_after


class QueueFull(ServerOverloaded):
    """The model's queue has no room.

    Attributes:
        model: name of the model.
    """

    def __init__(
        self,
        problem: str,
        remedy: str,
        *,
        url: str = "",
        message: str = "",
        retry_after: float = 0.0,
        model: str = "",
    ) -> None:
        super().__init__(problem, remedy, url=url, message=message, retry_after=retry_after)
        self.model = model
