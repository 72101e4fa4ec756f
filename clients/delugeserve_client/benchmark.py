"""Latency and throughput of a served model, as a client sees them.

A closed loop: each of C workers sends its next request when its last one is answered, so that C
requests are in flight throughout. After a warm-up all requests are counted, the slowest too, and
percentiles come from all samples. The server's own statistics, read before and after, say where
the time went.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from delugeserve_client.address import Protocol, parse_address
from delugeserve_client.errors import ClientError
from delugeserve_client.preprocessing import Pixels
from delugeserve_client.served import PROBABILITIES, ServedModel
from delugeserve_client.transport import GrpcTransport, Transport, open_transport
from delugeserve_client.triton import build_request, failures

# A worker gives up after so many errors in a row: a server that is gone answers at once, and a
# loop of errors measures nothing.
_MAX_ERRORS_IN_A_ROW = 10

# Enough different inputs in turn that a small cache answers for none, few enough for the memory.
_DISTINCT_INPUTS = 16


@dataclass(frozen=True)
class Measurement:
    """What one batch size and one concurrency gave.

    Attributes:
        model: the model's name.
        batch_size: images in a request.
        concurrency: requests in flight.
        requests: requests answered in the measured time.
        errors: requests that failed; they count in nothing else.
        seconds: from the first request sent to the last answer.
        images_per_s: images answered per second.
        mean_ms: mean latency of a request, in milliseconds, seen from the client.
        p50_ms: median latency.
        p90_ms: 90th percentile of latency.
        p95_ms: 95th percentile of latency.
        p99_ms: 99th percentile of latency.
        queue_ms: mean time a request waited in the server's queue. This and the three below are
            the server's own figures and count every client it had meanwhile.
        compute_input_ms: mean time the server took to gather the input.
        compute_infer_ms: mean time of the model itself.
        compute_output_ms: mean time the server took to hand out the output.
        executed_batch: mean number of images in a run of the model, after dynamic batching.
    """

    model: str
    batch_size: int
    concurrency: int
    requests: int
    errors: int
    seconds: float
    images_per_s: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    queue_ms: float
    compute_input_ms: float
    compute_infer_ms: float
    compute_output_ms: float
    executed_batch: float


@dataclass
class Samples:
    """What a closed loop saw: latencies in seconds, errors, and how long it ran."""

    latencies: list[float] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    seconds: float = 0.0


def measure(
    url: str = "localhost:8001",
    model: str | None = None,
    *,
    protocol: Protocol | None = None,
    concurrency: Sequence[int] = (1, 4, 16),
    batch_sizes: Sequence[int] = (1, 16),
    duration: float = 10.0,
    warmup: float = 2.0,
    images: Pixels | None = None,
    timeout: float = 30.0,
    on_start: Callable[[int, int], None] | None = None,
) -> list[Measurement]:
    """Measure a served model for every pair of batch size and concurrency.

    Args:
        url: the server's address.
        model: the model's name on the server.
        protocol: ``grpc`` or ``http``; by default what the URL says, else gRPC.
        concurrency: numbers of requests to keep in flight.
        batch_sizes: numbers of images in a request.
        duration: seconds to measure each pair.
        warmup: seconds of the same load before that, not counted.
        images: uint8 ``[N, H, W, 3]`` to send, repeated as needed; by default random pixels.
        timeout: seconds after which a request counts as failed.
        on_start: called before each pair, with its batch size and concurrency.

    Raises:
        ClientError: a number makes no sense, or no request at all was answered.
        ServerUnavailable: nothing answers at the URL.
        ModelUnavailable: the server does not serve the model.
    """
    counts = (min(concurrency, default=0), min(batch_sizes, default=0))
    if min(counts) < 1 or duration <= 0 or warmup < 0:
        raise ClientError(
            "Concurrency and batch size must be at least 1, and the duration more than 0.",
            "Give positive numbers.",
        )
    address = parse_address(url, protocol)
    transport = open_transport(address, timeout)
    try:
        served = transport.connect(model)
        if max(batch_sizes) > served.max_batch_size:
            raise ClientError(
                f"The model '{served.name}' takes at most {served.max_batch_size} images per "
                f"request, not {max(batch_sizes)}.",
                "Measure smaller batches, or export it with a larger --max-batch-size.",
            )
        measurements = []
        for batch_size in batch_sizes:
            batches = _batches(served, batch_size, images)
            for workers in concurrency:
                if on_start is not None:
                    on_start(batch_size, workers)
                load = _Load(transport, served, batches, workers)
                load.run(warmup)
                before = _statistics(transport, served)
                samples = load.run(duration)
                after = _statistics(transport, served)
                if not samples.latencies:
                    raise transport.explain(samples.errors[0])
                measurements.append(
                    summarise(served.name, batch_size, workers, samples, before, after)
                )
        return measurements
    finally:
        transport.close()


def summarise(
    model: str,
    batch_size: int,
    concurrency: int,
    samples: Samples,
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> Measurement:
    """Turn samples and two readings of the server's statistics into figures.

    Args:
        model: the model's name.
        batch_size: images in a request.
        concurrency: requests in flight.
        samples: at least one latency.
        before: the server's counters before the samples; see :func:`read_statistics`.
        after: the same afterwards.
    """
    milliseconds = np.asarray(samples.latencies) * 1e3
    p50, p90, p95, p99 = (float(p) for p in np.percentile(milliseconds, (50, 90, 95, 99)))
    spent = {key: after[key] - before.get(key, 0.0) for key in after}

    def mean_ms(part: str) -> float:
        return spent[f"{part}.ns"] / max(spent[f"{part}.count"], 1) / 1e6

    return Measurement(
        model=model,
        batch_size=batch_size,
        concurrency=concurrency,
        requests=len(milliseconds),
        errors=len(samples.errors),
        seconds=samples.seconds,
        images_per_s=len(milliseconds) * batch_size / samples.seconds,
        mean_ms=float(milliseconds.mean()),
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        queue_ms=mean_ms("queue"),
        compute_input_ms=mean_ms("compute_input"),
        compute_infer_ms=mean_ms("compute_infer"),
        compute_output_ms=mean_ms("compute_output"),
        executed_batch=spent["inference_count"] / max(spent["execution_count"], 1),
    )


def read_statistics(reply: Mapping[str, Any]) -> dict[str, float]:
    """Add up the counters that Triton keeps for a model's versions.

    Args:
        reply: Triton's statistics as JSON, of either protocol; gRPC's leaves zeros out.

    Returns:
        Numbers under ``inference_count``, ``execution_count`` and, for each part of a request,
        ``<part>.count`` and ``<part>.ns``.
    """
    totals = dict.fromkeys(("inference_count", "execution_count"), 0.0)
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    totals |= {f"{part}.{key}": 0.0 for part in parts for key in ("count", "ns")}
    for version in reply.get("model_stats", []):
        for key in ("inference_count", "execution_count"):
            totals[key] += float(version.get(key, 0))
        for part in parts:
            counter = version.get("inference_stats", {}).get(part, {})
            for key in ("count", "ns"):
                totals[f"{part}.{key}"] += float(counter.get(key, 0))
    return totals


def _statistics(transport: Transport, model: ServedModel) -> dict[str, float]:
    # The server counts a request after it has sent the answer.
    time.sleep(0.05)
    return read_statistics(transport.call("get_inference_statistics", model.name))


def _batches(model: ServedModel, batch_size: int, images: Pixels | None) -> list[Pixels]:
    if images is not None:
        return [np.resize(images, (batch_size, *model.image_shape))]
    random = np.random.default_rng(0)
    shape = (_DISTINCT_INPUTS, batch_size, *model.image_shape)
    return list(random.integers(0, 256, shape, dtype=np.uint8))


class _Load:
    """A closed loop of workers, which send requests made ready beforehand in turn.

    Over gRPC a worker is a chain of callbacks: the answer's callback sends the next request. All
    of them run in the one thread that gRPC keeps for events, so that no two compete for the
    interpreter's lock. Threads that block in ``infer`` spent about half as much processor time
    again on a request at 16 in flight, time that the server on the same machine lacks.

    tritonclient's HTTP client is bound to its thread, so that over HTTP each worker is a thread
    with a client of its own.
    """

    def __init__(
        self, transport: Transport, model: ServedModel, batches: Sequence[Pixels], workers: int
    ) -> None:
        self._transport = transport
        requests = [
            build_request(transport.module, model, batch, {PROBABILITIES: 0}) for batch in batches
        ]
        starts = [worker % len(requests) for worker in range(workers)]
        self._turns = [itertools.cycle(requests[start:] + requests[:start]) for start in starts]

    def run(self, seconds: float) -> Samples:
        """Keep the load up for some seconds, then wait for what is still in flight."""
        if seconds <= 0:
            return Samples()
        start = time.perf_counter()
        over_grpc = isinstance(self._transport, GrpcTransport)
        samples = (self._run_callbacks if over_grpc else self._run_threads)(start + seconds)
        samples.seconds = time.perf_counter() - start
        return samples

    def _run_callbacks(self, end: float) -> Samples:
        samples = Samples()
        client, timeout = self._transport.client, self._transport.timeout
        remaining = threading.Semaphore(0)
        stopped = threading.Event()

        def send(turns: Iterator[Mapping[str, Any]], errors_in_a_row: int = 0) -> None:
            sent = time.perf_counter()
            if sent >= end or errors_in_a_row >= _MAX_ERRORS_IN_A_ROW or stopped.is_set():
                remaining.release()
                return

            def answered(result: Any, error: Exception | None) -> None:
                if error is None:
                    result.as_numpy(PROBABILITIES)
                    samples.latencies.append(time.perf_counter() - sent)
                    send(turns)
                else:
                    samples.errors.append(error)
                    send(turns, errors_in_a_row + 1)

            client.async_infer(callback=answered, client_timeout=timeout, **next(turns))

        try:
            for turns in self._turns:
                send(turns)
            for _ in self._turns:
                remaining.acquire()
        finally:  # Ctrl-C: the connection is about to be closed, and nothing may be sent any more
            stopped.set()
        return samples

    def _run_threads(self, end: float) -> Samples:
        samples = Samples()
        stopped = threading.Event()

        def work(turns: Iterator[Mapping[str, Any]]) -> None:
            transport = open_transport(self._transport.address, self._transport.timeout)
            errors_in_a_row = 0
            while errors_in_a_row < _MAX_ERRORS_IN_A_ROW and not stopped.is_set():
                sent = time.perf_counter()
                if sent >= end:
                    break
                try:
                    transport.client.infer(**next(turns)).as_numpy(PROBABILITIES)
                except failures() as error:
                    samples.errors.append(error)
                    errors_in_a_row += 1
                else:
                    samples.latencies.append(time.perf_counter() - sent)
                    errors_in_a_row = 0
            transport.close()

        threads = [
            threading.Thread(target=work, args=(turns,), daemon=True) for turns in self._turns
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            stopped.set()
        return samples
