"""Senders: what takes the samples of a load test to a server and brings back the answers.

A sender must cost little: it shares the machine with the server that it measures, or must keep up
with a larger one. It therefore builds its messages before the test, and reads of an answer only
what is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from delugeserve.errors import Failure
from delugeserve.load.target import Target
from delugeserve_client.address import parse_address
from delugeserve_client.credentials import Credentials
from delugeserve_client.proxies import find_proxy
from delugeserve_client.served import PROBABILITIES
from delugeserve_client.transport import open_transport
from delugeserve_client.triton import build_request, import_triton

if TYPE_CHECKING:
    from delugeserve_client.preprocessing import Pixels

Done = Callable[[bytes | None, str | None], None]
"""Called once for each request, from any thread: with the answer's probabilities as the bytes of
float32 ``[N, classes]``, or with None and what went wrong."""


class Sender(Protocol):
    """Sends requests to a server. A test opens one in a process of its own."""

    def send(self, sample_ids: Sequence[int], done: Done) -> None:
        """Send one request and return at once.

        Args:
            sample_ids: the images of the request, as indices into the target's.
            done: receives the answer.
        """

    def close(self) -> None:
        """Close the connections. No request is in flight."""


OpenSender = Callable[[Target], Sender]
"""Opens a sender. It is called in another process, so it must be a function or a class of a module,
or otherwise be possible to pickle."""

_MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"


def open_sender(target: Target) -> Sender:
    """Return the sender for a target's address."""
    if parse_address(target.url).protocol == "grpc":
        return GrpcSender(target)
    raise Failure("Load tests over HTTP are not there yet.", "Use the server's gRPC address.")


class GrpcSender:
    """Sends messages that were serialised before over one gRPC channel, without retries."""

    def __init__(self, target: Target) -> None:
        import grpc

        address = parse_address(target.url)
        credentials = target.credentials or Credentials.from_environment()
        self._messages = _Messages(target)
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),  # a request that fails once has failed
            ("grpc.enable_http_proxy", int(find_proxy(address.host) is not None)),
        ]
        if address.secure:
            secrets = credentials.grpc_options(grpc)["creds"]
            self._channel = grpc.secure_channel(address.host, secrets, options)
        else:
            self._channel = grpc.insecure_channel(address.host, options)
        self._call = self._channel.unary_unary(_MODEL_INFER)
        key = credentials.api_key
        self._metadata = (("authorization", f"Bearer {key}"),) if key else None
        self._timeout = target.timeout

    def send(self, sample_ids: Sequence[int], done: Done) -> None:  # noqa: D102
        import grpc

        ok, read = grpc.StatusCode.OK, self._messages.read

        def answered(call: Any) -> None:
            if call.code() is ok:
                done(read(call.result()), None)
            else:
                done(None, f"{call.code().name}: {call.details()}")

        message = self._messages.build(sample_ids)
        call = self._call.future(message, timeout=self._timeout, metadata=self._metadata)
        call.add_done_callback(answered)

    def close(self) -> None:  # noqa: D102
        self._channel.close()


class _Messages:
    """The messages of a target: serialised ``ModelInferRequest``, and how to read the reply.

    ``raw_input_contents`` is the last field and the only one that depends on the images, so a
    message is a head for its number of images followed by their pixels.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._pixels = [image.tobytes() for image in target.images]
        transport = open_transport(parse_address(target.url), target.timeout, target.credentials)
        try:
            self._served = transport.connect(target.model)
        finally:
            transport.close()
        self._heads: dict[int, bytes] = {}
        self._built: dict[tuple[int, ...], bytes] = {}
        module = import_triton("grpc.service_pb2")
        self._parse = module.ModelInferResponse.FromString

    def build(self, sample_ids: Sequence[int]) -> bytes:
        key = tuple(sample_ids)
        message = self._built.get(key)
        if message is None:
            head = self._heads.get(len(key)) or self._head(len(key))
            pixels = b"".join([self._pixels[i] for i in key])
            message = head + _varint(len(pixels)) + pixels
            if len(self._built) < 4 * len(self._pixels):
                self._built[key] = message
        return message

    def read(self, reply: bytes) -> bytes:
        contents: bytes = self._parse(reply).raw_output_contents[0]
        return contents

    def _head(self, count: int) -> bytes:
        module = import_triton("grpc")
        batch: Pixels = self._target.images[:1].repeat(count, axis=0)
        outputs = {PROBABILITIES: 0}
        options = build_request(module, self._served, batch, outputs, self._target.timeout)
        defaults = {
            "request_id": "",
            "sequence_id": 0,
            "sequence_start": False,
            "sequence_end": False,
            "priority": 0,
            "parameters": None,
        }
        build = import_triton("grpc._utils")._get_inference_request
        request = build(**{**defaults, **options})
        del request.raw_input_contents[:]
        field, length_delimited = request.DESCRIPTOR.fields_by_name["raw_input_contents"], 2
        tag = _varint(field.number << 3 | length_delimited)
        head: bytes = request.SerializeToString() + tag
        return self._heads.setdefault(count, head)


def _varint(value: int) -> bytes:
    """Encode a whole number as Protocol Buffers do."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
