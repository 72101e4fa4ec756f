"""gRPC, for threads: several requests in flight on one connection.

Messages are those of tritonclient, but the large one is put together here: protobuf and
tritonclient would copy the pixels four times before gRPC sends them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import time
from collections.abc import Callable
from typing import Any

from delugeserve_client.address import Address
from delugeserve_client.core.dispatch import Cancel, Done
from delugeserve_client.core.failures import Failure, Kind
from delugeserve_client.explaining import failure_of
from delugeserve_client.transports.connection import (
    LONGEST,
    CallFailed,
    Options,
    damaged,
    unexpected,
)
from delugeserve_client.transports.messages import Form, Reply, Request, read_reply
from delugeserve_client.transports.shared_memory import (
    CudaRegion,
    Region,
    Regions,
    SystemRegion,
    import_cuda,
)
from delugeserve_client.triton import channel_arguments, import_triton

_SERVICE = "/inference.GRPCInferenceService/"
SECONDS_TO_REGISTER, SECONDS_TO_FORGET = 10.0, 1.0
_PARAMETERS, _RAW_INPUT = b"\x22", b"\x3a"  # fields 4 and 7 of ModelInferRequest
_KEY = b"\x0a\x07timeout"  # field 1 of an entry of a map
_VALUE, _INT64 = b"\x12", b"\x10"  # its field 2; field 2 of InferParameter


@functools.cache
def _messages() -> Any:
    import_triton("grpc")
    return importlib.import_module("tritonclient.grpc.service_pb2")


@functools.lru_cache(maxsize=256)
def _head(form: Form, region: str = "", nbytes: int = 0) -> bytes:
    pb = _messages()
    request = pb.ModelInferRequest(model_name=form.model, model_version=form.version)
    tensor = request.inputs.add(name=form.input, datatype=form.dtype, shape=form.shape)
    if region:
        tensor.parameters["shared_memory_region"].string_param = region
        tensor.parameters["shared_memory_byte_size"].int64_param = nbytes
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


def encode(request: Request, timeout: float, region: Region | None = None) -> bytes:
    """Return a ``ModelInferRequest`` in protobuf's encoding, in which parts may be joined.

    Args:
        request: the request.
        timeout: seconds after which nobody waits for the answer, so that the server may drop the
            request from its queue.
        region: shared memory that holds the input; None to put it into the message.
    """
    stated = b""
    if timeout < LONGEST:
        number = _INT64 + _varint(max(1, int(timeout * 1e6)))
        entry = _KEY + _VALUE + _varint(len(number)) + number
        stated = _PARAMETERS + _varint(len(entry)) + entry
    if region is not None:
        return _head(request.form, region.name, request.nbytes) + stated
    return b"".join(
        (_head(request.form), stated, _RAW_INPUT, _varint(request.nbytes), *request.parts)
    )


def decode(form: Form, response: Any) -> Reply:
    """Return the reply that a ``ModelInferResponse`` holds.

    Raises:
        CallFailed: it holds no valid one.
    """
    outputs = zip(response.outputs, response.raw_output_contents, strict=True)
    try:
        return read_reply(
            form,
            response.model_version,
            ((one.name, one.datatype, one.shape, content) for one, content in outputs),
        )
    except ValueError as error:
        raise damaged(error) from error


def seconds(timeout: float) -> float | None:
    """Return a timeout as gRPC takes it."""
    return max(timeout, 0.001) if timeout < LONGEST else None


def is_about_regions(failure: Failure) -> bool:
    """Return whether a server failed to find a region, as after a restart."""
    return "shared memory region" in failure.message.lower()


def is_accepted(code: Any) -> bool | None:
    """Return whether a server accepted a region, by gRPC's status; None if it did not answer."""
    if code.name in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"):
        return None
    return bool(code.name == "OK")


def open_channel(module: Any, address: Address, options: Options) -> Any:
    """Return a channel of ``grpc`` or ``grpc.aio``.

    Raises:
        AuthenticationFailed: a file of the credentials cannot be read.
    """
    arguments = channel_arguments(address)
    if not address.secure:
        return module.insecure_channel(address.host, options=arguments)
    credentials = options.credentials.grpc_credentials(importlib.import_module("grpc"))
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
        self.ready = self.method("ModelReady")

    def method(self, name: str) -> Any:
        """Return a method of the service."""
        return self._channel.unary_unary(
            f"{_SERVICE}{name}",
            request_serializer=getattr(self._pb, f"{name}Request").SerializeToString,
            response_deserializer=getattr(self._pb, f"{name}Response").FromString,
        )

    def metadata_of(self, request: Request) -> tuple[tuple[str, str], ...]:
        """Return the headers of a request."""
        return (*self.metadata, *request.headers.items()) if request.headers else self.metadata

    def ready_request(self, model: str, version: str) -> Any:
        """Return the message that asks whether a model is ready."""
        return self._pb.ModelReadyRequest(name=model, version=version)

    def registration(self, region: Region, *, end: bool = False) -> tuple[Any, Any]:
        """Return the method and the message that register a region, or end that."""
        name = f"{region.kind.capitalize()}SharedMemory{'Unregister' if end else 'Register'}"
        fields: dict[str, Any] = {"name": region.name}
        if not end:
            fields["byte_size"] = region.size
            if isinstance(region, SystemRegion):
                fields["key"] = region.key
            elif isinstance(region, CudaRegion):
                fields |= {"raw_handle": region.raw_handle, "device_id": region.device}
        return self.method(name), getattr(self._pb, f"{name}Request")(**fields)

    def question(self, what: str, names: tuple[str, ...]) -> tuple[Any, Any]:
        """Return the method and the message of a question; see :class:`Connection`."""
        method = {
            "metadata": "ModelMetadata",
            "config": "ModelConfig",
            "index": "RepositoryIndex",
            "server": "ServerMetadata",
            "statistics": "ModelStatistics",
        }[what]
        fields = dict(zip(("name", "version"), names, strict=False))
        return self.method(method), getattr(self._pb, f"{method}Request")(**fields)


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
        if options.shared_memory == "cuda":
            import_cuda()
        self._grpc = importlib.import_module("grpc")
        self._channel = open_channel(self._grpc, address, options)
        self._calls = Calls(self._channel, options)
        self._regions = Regions(options.shared_memory, address, self._register)
        self._closed = False

    def infer(self, request: Request, timeout: float) -> Reply:  # noqa: D102
        region = self._regions.place(request)
        if region is None:
            return self._infer(request, timeout, None)
        until = time.monotonic() + timeout
        try:
            reply = self._infer(request, timeout, region)
        except CallFailed as error:
            if not is_about_regions(error.failure):
                self._regions.discard(region)
                raise
            self._regions.lost(region, error.failure.message)
            return self._infer(request, until - time.monotonic(), None)
        except BaseException:  # Ctrl-C
            self._regions.discard(region)
            raise
        self._regions.give_back(region)
        return reply

    def start(self, request: Request, timeout: float, done: Done) -> Cancel:  # noqa: D102
        region = self._regions.place(request)
        if region is None:
            return self._start(request, timeout, done, None)
        placed, until = region, time.monotonic() + timeout

        def finished(reply: Reply | None, failure: Failure | None) -> None:
            if failure is None:
                self._regions.give_back(placed)
                done(reply, None)
                return
            if is_about_regions(failure):
                self._regions.lost(placed, failure.message)
                self._start(request, until - time.monotonic(), done, None)
            else:
                self._regions.discard(placed)
                done(None, failure)

        return self._start(request, timeout, finished, region)

    def probe(  # noqa: D102
        self, model: str, version: str, timeout: float, done: Callable[[bool], None]
    ) -> None:
        calls = self._calls
        try:
            message = calls.ready_request(model, version)
            future = calls.ready.future(message, timeout=timeout, metadata=calls.metadata)
        except Exception:
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
        self._closed = True
        with contextlib.suppress(*self._failures()):  # the first failure ends it: it may hang
            for region in self._regions.close():
                method, message = self._calls.registration(region, end=True)
                method(message, timeout=SECONDS_TO_FORGET, metadata=self._calls.metadata)
        self._channel.close()

    def _infer(self, request: Request, timeout: float, region: Region | None) -> Reply:
        calls = self._calls
        try:
            response = calls.infer(
                encode(request, timeout, region),
                timeout=seconds(timeout),
                metadata=calls.metadata_of(request),
                compression=calls.compression,
            )
        except self._failures() as error:
            raise CallFailed(self._failure(error)) from None
        return decode(request.form, response)

    def _start(self, request: Request, timeout: float, done: Done, region: Region | None) -> Cancel:
        calls = self._calls
        try:
            future = calls.infer.future(
                encode(request, timeout, region),
                timeout=seconds(timeout),
                metadata=calls.metadata_of(request),
                compression=calls.compression,
            )
        except Exception as error:
            done(None, self._failure(error))
            return lambda: None

        def finished(_: Any) -> None:
            try:
                reply = decode(request.form, future.result())
            except CallFailed as error:
                done(None, error.failure)
            except Exception as error:  # whatever a callback raises, gRPC would swallow
                done(None, self._failure(error))
            else:
                done(reply, None)

        future.add_done_callback(finished)
        cancel: Cancel = future.cancel
        return cancel

    def _register(self, region: Region, done: Callable[[bool | None], None]) -> None:
        method, message = self._calls.registration(region)
        future = method.future(message, timeout=SECONDS_TO_REGISTER, metadata=self._calls.metadata)
        future.add_done_callback(lambda ended: done(is_accepted(ended.code())))

    def _failure(self, error: BaseException) -> Failure:
        if self._closed:
            return Failure(Kind.CLOSED)
        if isinstance(error, self._grpc.RpcError):
            return failure_of(error, self.address.host)
        return unexpected(error)

    def _failures(self) -> tuple[type[Exception], ...]:
        return (self._grpc.RpcError, ValueError)  # ValueError: the channel is closed
