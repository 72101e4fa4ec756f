"""gRPC, for threads: several requests in flight on one connection.

Messages are those of tritonclient, but the large one is put together here: protobuf and
tritonclient would copy the pixels four times before gRPC sends them.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from delugeserve_client.address import Address
from delugeserve_client.core.failures import Failure, Kind
from delugeserve_client.explaining import failure_of
from delugeserve_client.transports.connection import CallFailed, Cancel, Done, Options
from delugeserve_client.transports.messages import Form, Reply, Request, read_output
from delugeserve_client.triton import channel_arguments, import_triton

_SERVICE = "/inference.GRPCInferenceService/"
_LONGEST = 2**31  # seconds; longer is for ever
_PARAMETERS, _RAW_INPUT = b"\x22", b"\x3a"  # fields 4 and 7 of ModelInferRequest
_KEY = b"\x0a\x07timeout"  # field 1 of an entry of a map
_VALUE, _INT64 = b"\x12", b"\x10"  # its field 2; field 2 of InferParameter


@functools.cache
def _messages() -> Any:
    import_triton("grpc")
    return importlib.import_module("tritonclient.grpc.service_pb2")


@functools.lru_cache(maxsize=256)
def _head(form: Form) -> bytes:
    pb = _messages()
    request = pb.ModelInferRequest(model_name=form.model, model_version=form.version)
    request.inputs.add(name=form.input, datatype=form.dtype, shape=form.shape)
    for name, classes in form.outputs:
        output = request.outputs.add(name=name)
        if classes:
            output.parameters["classification"].int64_param = classes
    if form.on_error:
        request.parameters["on_error"].string_param = form.on_error
    encoded: bytes = request.SerializeToString()
    return encoded


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)


def encode(request: Request, timeout: float) -> bytes:
    """Return a ``ModelInferRequest`` in protobuf's encoding, in which parts may be joined.

    Args:
        request: the request.
        timeout: seconds after which nobody waits for the answer, so that the server may drop the
            request from its queue.
    """
    stated = b""
    if timeout < _LONGEST:
        number = _INT64 + _varint(max(1, int(timeout * 1e6)))
        entry = _KEY + _VALUE + _varint(len(number)) + number
        stated = _PARAMETERS + _varint(len(entry)) + entry
    return b"".join(
        (_head(request.form), stated, _RAW_INPUT, _varint(request.nbytes), *request.parts)
    )


def decode(response: Any) -> Reply:
    """Return the reply that a ``ModelInferResponse`` holds.

    Raises:
        CallFailed: it holds no valid one.
    """
    try:
        outputs = {
            output.name: read_output(output.datatype, output.shape, content)
            for output, content in zip(response.outputs, response.raw_output_contents, strict=True)
        }
    except ValueError as error:
        raise CallFailed(Failure(Kind.BROKEN, f"The answer is damaged ({error}).")) from error
    return Reply(response.model_version, outputs)


def seconds(timeout: float) -> float | None:
    """Return a timeout as gRPC takes it."""
    return max(timeout, 0.001) if timeout < _LONGEST else None


def open_channel(module: Any, address: Address, options: Options) -> Any:
    """Return a channel of ``grpc`` or ``grpc.aio``.

    Raises:
        AuthenticationFailed: a file of the credentials cannot be read.
    """
    arguments = channel_arguments(address)
    if not address.secure:
        return module.insecure_channel(address.host, options=arguments)
    credentials = options.credentials.grpc_options(importlib.import_module("grpc"))["creds"]
    return module.secure_channel(address.host, credentials, options=arguments)


class Calls:
    """The methods of the service on a channel of ``grpc`` or ``grpc.aio``.

    Args:
        channel: the channel.
        options: how it was made.
    """

    def __init__(self, channel: Any, options: Options) -> None:
        pb = self._pb = _messages()
        self._channel = channel
        self.metadata = tuple(options.all_headers().items())
        grpc = importlib.import_module("grpc")
        self.compression = grpc.Compression.Gzip if options.compression == "gzip" else None
        # The request is encoded already.
        self.infer = channel.unary_unary(
            f"{_SERVICE}ModelInfer", response_deserializer=pb.ModelInferResponse.FromString
        )
        self.ready = self._method("ModelReady")

    def _method(self, name: str) -> Any:
        return self._channel.unary_unary(
            f"{_SERVICE}{name}",
            request_serializer=getattr(self._pb, f"{name}Request").SerializeToString,
            response_deserializer=getattr(self._pb, f"{name}Response").FromString,
        )

    def metadata_of(self, request: Request) -> tuple[tuple[str, str], ...]:
        """Return the headers of a request."""
        return (*self.metadata, *request.headers.items()) if request.headers else self.metadata

    def ready_request(self, model: str) -> Any:
        """Return the message that asks whether a model is ready."""
        return self._pb.ModelReadyRequest(name=model)

    def question(self, what: str, names: tuple[str, ...]) -> tuple[Any, Any]:
        """Return the method and the message of a question; see :class:`Connection`."""
        method = {
            "metadata": "ModelMetadata",
            "config": "ModelConfig",
            "index": "RepositoryIndex",
        }[what]
        fields = dict(zip(("name", "version"), names, strict=False))
        return self._method(method), getattr(self._pb, f"{method}Request")(**fields)


def as_json(message: Any) -> Any:
    """Return a protobuf message as JSON values."""
    json_format = importlib.import_module("google.protobuf.json_format")
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


class GrpcConnection:
    """A connection over gRPC; see :class:`~delugeserve_client.transports.connection.Connection`.

    Args:
        address: the server's address.
        options: how it is made.

    Raises:
        MissingPackageError: tritonclient or one of its own dependencies is not installed.
        AuthenticationFailed: a file of the credentials cannot be read.
    """

    def __init__(self, address: Address, options: Options) -> None:
        self.address = address
        _messages()
        self._grpc = importlib.import_module("grpc")
        self._channel = open_channel(self._grpc, address, options)
        self._calls = Calls(self._channel, options)

    def infer(self, request: Request, timeout: float) -> Reply:  # noqa: D102
        calls = self._calls
        try:
            response = calls.infer(
                encode(request, timeout),
                timeout=seconds(timeout),
                metadata=calls.metadata_of(request),
                compression=calls.compression,
            )
        except self._failures() as error:
            raise CallFailed(self._failure(error)) from None
        return decode(response)

    def start(self, request: Request, timeout: float, done: Done) -> Cancel:  # noqa: D102
        calls = self._calls
        try:
            future = calls.infer.future(
                encode(request, timeout),
                timeout=seconds(timeout),
                metadata=calls.metadata_of(request),
                compression=calls.compression,
            )
        except self._failures() as error:
            done(None, self._failure(error))
            return lambda: None

        def finished(_: Any) -> None:
            try:
                reply = decode(future.result())
            except CallFailed as error:
                done(None, error.failure)
            except Exception as error:  # whatever a callback raises, gRPC would swallow
                done(None, self._failure(error))
            else:
                done(reply, None)

        future.add_done_callback(finished)
        cancel: Cancel = future.cancel
        return cancel

    def probe(self, model: str, timeout: float, done: Callable[[bool], None]) -> None:  # noqa: D102
        try:
            future = self._calls.ready.future(
                self._calls.ready_request(model), timeout=timeout, metadata=self._calls.metadata
            )
        except self._failures():
            done(False)
            return

        def finished(_: Any) -> None:
            try:
                ready = bool(future.result().ready)
            except Exception:
                ready = False
            done(ready)

        future.add_done_callback(finished)

    def ask(self, what: str, *names: str, timeout: float) -> Any:  # noqa: D102
        method, message = self._calls.question(what, names)
        try:
            return as_json(method(message, timeout=seconds(timeout), metadata=self._calls.metadata))
        except self._failures() as error:
            raise CallFailed(self._failure(error)) from None

    def close(self) -> None:  # noqa: D102
        self._channel.close()

    def _failure(self, error: BaseException) -> Failure:
        if isinstance(error, ValueError) and "closed channel" in str(error):
            return Failure(Kind.CLOSED)
        if isinstance(error, self._grpc.FutureCancelledError):
            return Failure(Kind.CLOSED)
        failure = failure_of(error, self.address.host)
        if failure.status == "CANCELLED":
            return Failure(Kind.CLOSED, failure.message)
        return failure

    def _failures(self) -> tuple[type[Exception], ...]:
        return (self._grpc.RpcError, ValueError)
