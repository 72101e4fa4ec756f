"""Clients that never retry and know the right answers."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import tritonclient.grpc as triton
from chaos_repository import Answer, KnownModel
from tritonclient.utils import InferenceServerException

Kind = Literal["single", "batch", "encoded", "classify"]
Outcome = Literal["right", "failed", "refused", "wrong"]

BATCH = 16
#: What each client asks for, in turn.
KINDS: tuple[Kind, ...] = ("single", "batch", "encoded", "classify")
_CHANNEL = (
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own, like another program
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)
TIMEOUT = 60.0  # seconds; a client that waits longer counts as failed
_OK = 200
#: gRPC's words for a request that no server has taken: there was no connection, or it was closing.
_NOT_TAKEN = ("failed to connect to all addresses", "Connection refused", "GOAWAY")


@dataclass(frozen=True)
class Request:
    """One request and its answer.

    Attributes:
        start: when it was sent, in seconds of ``time.monotonic``.
        seconds: until the answer, or the error.
        model: the model asked.
        kind: what was sent.
        outcome: ``right``; ``refused`` (there was no server to take it); ``failed`` (it was sent
            and got an error, or no answer); ``wrong`` (not the answer of its version).
        version: of the model that answered; 0 if none did.
        why: the error, or what is wrong.
    """

    start: float
    seconds: float
    model: str
    kind: Kind
    outcome: Outcome
    version: int
    why: str = ""

    @property
    def end(self) -> float:
        """When the answer came."""
        return self.start + self.seconds


class Client(Protocol):
    """Asks one model, one request at a time."""

    def ask(self) -> Request:
        """Send the next request, once, and judge the answer."""

    def close(self) -> None:
        """Close the connection."""


def make_client(grpc: str, http_address: str, model: KnownModel, kind: Kind) -> Client:
    """Return a client with a connection of its own.

    Args:
        grpc: ``host:port`` for gRPC.
        http_address: ``host:port`` for HTTP.
        model: what it asks.
        kind: what it sends.
    """
    if kind == "classify":
        return _HttpClient(http_address, model)
    return _GrpcClient(grpc, model, kind)


class _GrpcClient:
    def __init__(self, address: str, model: KnownModel, kind: Kind) -> None:
        self._client = triton.InferenceServerClient(address, channel_args=list(_CHANNEL))
        self._model, self._kind = model, kind
        self._name = f"{model.name}_image" if kind == "encoded" else model.name
        count = len(model.pictures)
        size = BATCH if kind == "batch" else 1
        self._rows = [
            [(first + step) % count for step in range(size)] for first in range(0, count, size)
        ]
        self._inputs = [[self._input(rows)] for rows in self._rows]
        self._outputs = [triton.InferRequestedOutput("probabilities", class_count=2)]
        self._turn = 0

    def ask(self) -> Request:
        turn = self._turn = (self._turn + 1) % len(self._rows)
        outcome: Outcome
        version, start = 0, time.monotonic()
        try:
            result = self._client.infer(
                self._name, self._inputs[turn], outputs=self._outputs, client_timeout=TIMEOUT
            )
            seconds = time.monotonic() - start
        except InferenceServerException as error:
            seconds = time.monotonic() - start
            why = f"{error.status()}: {error.message()}"
            outcome = "refused" if any(word in why for word in _NOT_TAKEN) else "failed"
        else:
            version = int(result.get_response().model_version or 0)
            found = [_parse(one) for one in result.as_numpy("probabilities")[:, 0]]
            why = judge(self._model.answers, version, self._rows[turn], found)
            outcome = "wrong" if why else "right"
        return Request(start, seconds, self._model.name, self._kind, outcome, version, why)

    def close(self) -> None:
        self._client.close()

    def _input(self, rows: Sequence[int]) -> Any:
        if self._kind == "encoded":
            files = np.array([[self._model.encoded[row]] for row in rows], object)
            tensor = triton.InferInput("image", files.shape, "BYTES")
            tensor.set_data_from_numpy(files)
        else:
            images = self._model.pictures[rows]
            tensor = triton.InferInput("image", images.shape, "UINT8")
            tensor.set_data_from_numpy(images)
        return tensor


class _HttpClient:
    """Posts pictures to ``/classify`` over one connection, which it opens again when it broke."""

    def __init__(self, address: str, model: KnownModel) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=TIMEOUT)
        self._model, self._turn = model, 0

    def ask(self) -> Request:
        row = self._turn = (self._turn + 1) % len(self._model.encoded)
        outcome: Outcome = "failed"
        version, why, start = 0, "", time.monotonic()
        try:
            if self._connection.sock is None:
                self._connection.connect()
        except OSError as error:
            outcome, why = "refused", _describe(error)
        else:
            try:
                status, text = self._post(self._model.encoded[row])
            except (OSError, http.client.HTTPException) as error:
                why = _describe(error)
                self._connection.close()
            else:
                version, why = self._judge(row, status, text)
                if status == _OK:
                    outcome = "wrong" if why else "right"
        seconds = time.monotonic() - start
        return Request(start, seconds, self._model.name, "classify", outcome, version, why)

    def close(self) -> None:
        self._connection.close()

    def _post(self, picture: bytes) -> tuple[int, bytes]:
        self._connection.request(
            "POST",
            f"/classify?model={self._model.name}&top_k=2",
            picture,
            {"Content-Type": "image/png"},
        )
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def _judge(self, row: int, status: int, text: bytes) -> tuple[int, str]:
        if status != _OK:
            return 0, f"{status}: {text[:200].decode(errors='replace')}"
        answer = json.loads(text)
        first = answer["predictions"][0]
        version = int(answer["version"])
        found = [Answer(first["index"], first["label"])]
        return version, judge(self._model.answers, version, [row], found)


def judge(
    answers: Mapping[int, Sequence[Answer]],
    version: int,
    rows: Sequence[int],
    found: Sequence[Answer],
) -> str:
    """Return what is wrong with an answer; empty if it is the one of its version.

    Args:
        answers: the right answer of each version for each picture.
        version: the version that says it answered.
        rows: the pictures that were sent.
        found: what was answered for them.
    """
    right = answers.get(version)
    if right is None:
        return f"version {version} was never exported"
    if len(found) != len(rows):
        return f"{len(found)} answers for {len(rows)} pictures"
    for row, one in zip(rows, found, strict=True):
        if one != right[row]:
            return f"version {version} says {one}, its right answer is {right[row]}"
    return ""


def _parse(entry: bytes) -> Answer:
    _, index, label = entry.decode().split(":", 2)
    return Answer(int(index), label)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
