"""The sender over gRPC to peers that speak the inference protocol (v2) but are not Triton."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.peers.interface import Form, Model
from delugeserve.load import Target
from delugeserve.load.senders import PlainGrpcSender
from delugeserve_client.triton import import_triton


@dataclass(frozen=True)
class OpenGrpc:
    """Opens a sender of single images; can be pickled.

    Attributes:
        model: the model.
        form: how an image becomes an element of BYTES, and how the first output is read.
        images: the images to send, by sample.
    """

    model: Model
    form: Form
    images: Sequence[bytes] = field(repr=False)

    def __call__(self, target: Target) -> PlainGrpcSender:
        """Open the sender for a target's address."""
        return PlainGrpcSender(target, BytesMessages(self))


class BytesMessages:
    """Serialised requests with one element of BYTES.

    Args:
        opened: what to send.
    """

    def __init__(self, opened: OpenGrpc) -> None:
        self._form, self._model = opened.form, opened.model
        messages = import_triton("grpc.service_pb2")
        self._parse = messages.ModelInferResponse.FromString
        self._built = []
        for image in opened.images:
            request = messages.ModelInferRequest(model_name=opened.model.name)
            request.inputs.add(name="image", datatype="BYTES", shape=[1, 1])
            request.raw_input_contents.append(opened.form.body(opened.model, image))
            self._built.append(request.SerializeToString())

    def build(self, sample_ids: Sequence[int]) -> bytes:
        """Return the request for one image."""
        (sample,) = sample_ids
        return self._built[sample]

    def read(self, reply: bytes) -> bytes:
        """Return the probabilities of a reply."""
        return self._form.read(self._parse(reply).raw_output_contents[0], self._model.classes)
