"""The messages of a load test over gRPC, serialised before the test."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from delugeserve.load.target import Target, describe_model
from delugeserve_client.served import PROBABILITIES
from delugeserve_client.triton import build_request, import_triton

if TYPE_CHECKING:
    from delugeserve_client.preprocessing import Pixels

_NONCE = 4  # bytes
_numbers = itertools.count()


class GrpcMessages(Protocol):
    """What a gRPC sender sends and reads."""

    def build(self, sample_ids: Sequence[int]) -> bytes:
        """Return the serialised request for some images, given as indices into the target's."""

    def read(self, reply: bytes) -> bytes:
        """Return the probabilities of a serialised reply, as the bytes of float32."""


class Messages:
    """The messages of a target: serialised ``ModelInferRequest``, and how to read the reply.

    ``raw_input_contents`` is the last field and the only one that depends on the images, so a
    message is a head for its number of images followed by their pixels.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._served = describe_model(target.url, target.model, target.timeout, target.credentials)
        self._pixels = [image.tobytes() for image in target.images]
        self._heads: dict[int, bytes] = {}
        self._built: dict[tuple[int, ...], bytes] = {}
        self._parse = import_triton("grpc.service_pb2").ModelInferResponse.FromString

    def build(self, sample_ids: Sequence[int]) -> bytes:
        """Return the request for some images, given as indices into the target's."""
        key = tuple(sample_ids)
        message = self._built.get(key)
        if message is None:
            head = self._heads.get(len(key)) or self._head(len(key))
            pixels = b"".join([self._pixels[i] for i in key])
            message = head + varint(len(pixels)) + pixels
            if len(self._built) < 4 * len(self._pixels):
                self._built[key] = message
        return make_unique(message) if self._target.unique else message

    def read(self, reply: bytes) -> bytes:
        """Return the probabilities of a reply, as the bytes of float32 ``[N, classes]``."""
        contents: bytes = self._parse(reply).raw_output_contents[0]
        return contents

    def _head(self, count: int) -> bytes:
        batch: Pixels = self._target.images[:1].repeat(count, axis=0)
        outputs = {PROBABILITIES: 0}
        module = import_triton("grpc")
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
        tag = varint(field.number << 3 | length_delimited)
        head: bytes = request.SerializeToString() + tag
        return self._heads.setdefault(count, head)


def make_unique(message: bytes) -> bytes:
    """Return a message that ends with pixels, with other last bytes than every one before."""
    number = next(_numbers) % (1 << 8 * _NONCE)
    return message[:-_NONCE] + number.to_bytes(_NONCE, "little")


def varint(value: int) -> bytes:
    """Encode a whole number as Protocol Buffers do."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
