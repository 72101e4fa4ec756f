"""The sender over HTTP: each peer's form of requests and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.peers.interface import Form, Model
from delugeserve.load import HttpSender, Target


@dataclass(frozen=True)
class OpenHttp:
    """Opens a :class:`PeerSender`; can be pickled.

    Attributes:
        model: the model.
        form: how it is asked.
        images: the images to send, by sample: pixels, or files.
    """

    model: Model
    form: Form
    images: Sequence[bytes] = field(repr=False)

    def __call__(self, target: Target) -> PeerSender:
        """Open the sender for a target's URL."""
        return PeerSender(target, self)


class PeerSender(HttpSender):
    """Sends single images to a peer.

    Args:
        target: with the server's URL.
        opened: what to send.
    """

    def __init__(self, target: Target, opened: OpenHttp) -> None:
        self._form, self._model, self._images = opened.form, opened.model, opened.images
        super().__init__(target)

    def path(self, sample_ids: Sequence[int]) -> str:  # noqa: D102
        return self._form.url(self._model)

    def body(self, sample_ids: Sequence[int]) -> bytes:  # noqa: D102
        (sample,) = sample_ids
        return self._form.body(self._model, self._images[sample])

    def headers(self, sample_ids: Sequence[int]) -> dict[str, str]:  # noqa: D102
        return self._form.all_headers(self._model)

    def read(self, head: bytes, body: bytes) -> bytes:  # noqa: D102
        return self._form.read(body, self._model.classes)
