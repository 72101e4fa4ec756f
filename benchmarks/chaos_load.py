"""Clients that never retry, know the right answers, and keep a record of every request."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tritonclient.grpc as triton
from chaos_repository import Answer, KnownModel
from tritonclient.utils import InferenceServerException

Kind = Literal["single", "batch", "encoded"]
Outcome = Literal["right", "failed", "wrong"]

BATCH = 16
#: What each client asks for, in turn: half of them send single images.
KINDS: tuple[Kind, ...] = ("single", "single", "batch", "encoded")
_CHANNEL = (
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own, like another program
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)
_TIMEOUT = 60.0  # seconds; a client that waits longer counts as failed
_AFTER_FAILURE = 0.05  # seconds until a client asks again that got no answer


@dataclass(frozen=True)
class Request:
    """One request and its answer.

    Attributes:
        start: when it was sent, in seconds of ``time.monotonic``.
        seconds: until the answer, or the error.
        model: the model asked; with ``_image`` for encoded images.
        kind: what was sent.
        outcome: ``right``, ``failed`` (no answer) or ``wrong`` (not the one of its version).
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


class Load:
    """Clients in threads, each with a connection of its own; a context manager.

    Args:
        url: ``host:port`` of the gRPC endpoint.
        models: whom they ask, in turn.
        clients: their number.
        pause: seconds between an answer and the next request of a client.
        kinds: what they send, in turn.
    """

    def __init__(
        self,
        url: str,
        models: Sequence[KnownModel],
        clients: int = 16,
        pause: float = 0.0,
        kinds: Sequence[Kind] = KINDS,
    ) -> None:
        self.clients = clients
        self._url, self._pause = url, pause
        self._requests: list[Request] = []
        self._done = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._ask,
                args=(models[number % len(models)], kinds[number // len(models) % len(kinds)]),
                daemon=True,
            )
            for number in range(clients)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Send nothing more, and wait for the answers that are due."""
        self._done.set()
        for thread in self._threads:
            thread.join(2 * _TIMEOUT)

    def requests(self) -> list[Request]:
        """Return the requests that have ended so far."""
        return list(self._requests)

    def wait_for_all(self, seconds: float = _TIMEOUT) -> None:
        """Wait until the load has got as many right answers as there are clients.

        Raises:
            TimeoutError: it did not.
        """
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            right = [r for r in self.requests() if r.start >= start and r.outcome == "right"]
            if len(right) >= self.clients:
                return
            time.sleep(0.05)
        raise TimeoutError(f"The clients got no answers for {seconds:g} s.")

    def _ask(self, model: KnownModel, kind: Kind) -> None:
        client = _Client(self._url, model, kind)
        with contextlib.closing(client):
            while not self._done.is_set():
                request = client.ask()
                self._requests.append(request)
                pause = _AFTER_FAILURE if request.outcome == "failed" else self._pause
                if pause:
                    self._done.wait(pause)


class _Client:
    """One client; its requests are prepared in advance."""

    def __init__(self, url: str, model: KnownModel, kind: Kind) -> None:
        self._client = triton.InferenceServerClient(url, channel_args=list(_CHANNEL))
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
        """Send the next request, once, and judge the answer."""
        turn = self._turn = (self._turn + 1) % len(self._rows)
        outcome: Outcome = "failed"
        version, why, start = 0, "", time.monotonic()
        try:
            result = self._client.infer(
                self._name, self._inputs[turn], outputs=self._outputs, client_timeout=_TIMEOUT
            )
            seconds = time.monotonic() - start
        except InferenceServerException as error:
            seconds = time.monotonic() - start
            why = f"{error.status()}: {error.message()}"
        else:
            version, why = self._judge(result, self._rows[turn])
            outcome = "wrong" if why else "right"
        return Request(start, seconds, self._name, self._kind, outcome, version, why)

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

    def _judge(self, result: Any, rows: Sequence[int]) -> tuple[int, str]:
        """Return the version that answered, and what is wrong with the answer."""
        version = int(result.get_response().model_version or 0)
        answers = self._model.answers.get(version)
        if answers is None:
            return version, f"version {version} was never exported"
        entries = result.as_numpy("probabilities")
        if entries.shape != (len(rows), 2):
            return version, f"the answer has the shape {entries.shape}"
        for row, entry in zip(rows, entries[:, 0], strict=True):
            _, index, label = entry.decode().split(":", 2)
            if Answer(int(index), label) != answers[row]:
                return version, f"{index}:{label} instead of {answers[row]}, version {version}"
        return version, ""


@dataclass(frozen=True)
class Summary:
    """Requests of a time span.

    Attributes:
        requests: their number.
        failed: those without an answer.
        wrong: those with another answer than their version has to give.
        slowest: seconds of the slowest that was answered.
        reasons: why they failed or are wrong, and how often.
    """

    requests: int
    failed: int
    wrong: int
    slowest: float
    reasons: Counter[str]


def summarise(requests: Sequence[Request]) -> Summary:
    """Count requests."""
    outcomes = Counter(request.outcome for request in requests)
    reasons = Counter(request.why.splitlines()[0][:200] for request in requests if request.why)
    slowest = max((r.seconds for r in requests if r.outcome != "failed"), default=0.0)
    return Summary(len(requests), outcomes["failed"], outcomes["wrong"], slowest, reasons)


def percentile(requests: Sequence[Request], percent: float) -> float:
    """Return a percentile of the seconds until an answer, corrected for coordinated omission.

    A client that waits sends nothing meanwhile, although others would have come to wait as well.
    As HdrHistogram does, a request that took ``n`` times as long as the median of its kind is
    counted with the ``n - 1`` that were left out.
    """
    by_kind: dict[tuple[str, Kind], list[float]] = {}
    for request in requests:
        if request.outcome != "failed":
            by_kind.setdefault((request.model, request.kind), []).append(request.seconds)
    if not by_kind:
        return float("nan")
    counted: list[float] = []
    for taken in by_kind.values():
        usual = float(np.median(taken))
        counted += taken
        for one in taken:
            counted += np.arange(one - usual, usual, -usual).tolist()
    return float(np.percentile(counted, percent))


def longest_gap(requests: Sequence[Request], start: float, end: float) -> float:
    """Return the longest time from ``start`` to ``end`` in which no request was answered."""
    ends = sorted(r.end for r in requests if r.outcome == "right" and start <= r.end <= end)
    moments = np.array([start, *ends, end])
    return float(np.diff(moments).max())
