"""Latency and throughput of a served model, as a client sees them.

The load is a closed loop: each of C workers sends its next request when its last one is answered,
so C requests are in flight throughout. After a warm-up every request counts, and percentiles are
computed from all of them. The server's own statistics, read before and after, show where the time
went.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np

from delugeserve_client.address import Protocol, parse_address
from delugeserve_client.closed_loop import ClosedLoop
from delugeserve_client.errors import ClientError
from delugeserve_client.measurement import (
    Measurement,
    ServerStatistics,
    read_statistics,
    summarise,
)
from delugeserve_client.preprocessing import Pixels
from delugeserve_client.progress import NO_PROGRESS, Progress
from delugeserve_client.served import ServedModel
from delugeserve_client.transport import Transport, open_transport

_log = logging.getLogger(__name__)

_DEFAULT_BATCH_SIZES = (1, 16)

# Enough distinct inputs that no cache helps, few enough to fit in memory.
_DISTINCT_INPUTS = 16


def measure(
    url: str = "localhost:8001",
    model: str | None = None,
    *,
    protocol: Protocol | None = None,
    concurrency: Sequence[int] = (1, 4, 16),
    batch_sizes: Sequence[int] | None = None,
    duration: float = 10.0,
    warmup: float = 2.0,
    images: Pixels | None = None,
    timeout: float = 30.0,
    progress: Progress = NO_PROGRESS,
) -> list[Measurement]:
    """Measure a served model for every pair of batch size and concurrency.

    Args:
        url: the server's address.
        model: the model's name; by default the server's only model.
        protocol: ``grpc`` or ``http``; by default the URL's scheme, or gRPC without one.
        concurrency: numbers of requests to keep in flight.
        batch_sizes: numbers of images per request; by default 1 and 16, or 1 and the model's
            largest batch where that is smaller.
        duration: seconds to measure each pair.
        warmup: seconds of the same load before that, not counted.
        images: uint8 ``[N, H, W, 3]`` to send, repeated as needed; by default random pixels.
        timeout: seconds after which a request counts as failed.
        progress: receives one step for each pair.

    Returns:
        One measurement for each pair, by batch size and then by concurrency.

    Raises:
        ClientError: no request of a pair was answered.
        ServerUnavailable: no server answers at the URL.
        ModelUnavailable: the server does not serve the model.
        ValueError: a number is out of range.
    """
    if min(concurrency, default=0) < 1 or (
        batch_sizes is not None and min(batch_sizes, default=0) < 1
    ):
        raise ValueError("concurrency and batch_sizes must be lists of numbers from 1 up")
    if duration <= 0 or warmup < 0:
        raise ValueError("duration must be greater than 0, and warmup at least 0")
    transport = open_transport(parse_address(url, protocol), timeout)
    try:
        served = transport.connect(model)
        sizes = _check_sizes(served, batch_sizes)
        measurements: list[Measurement] = []
        for batch_size in sizes:
            batches = _batches(served, batch_size, images)
            for workers in concurrency:
                name = f"measuring batch size {batch_size}, {workers} in flight"
                progress.stage(name, total=len(sizes) * len(concurrency))
                progress.advance(len(measurements))
                _log.debug("%s", name)
                loop = ClosedLoop(transport, served, batches, workers)
                loop.run(warmup)
                before = _statistics(transport, served)
                samples = loop.run(duration)
                server = _statistics(transport, served).since(before)
                if not samples.latencies:
                    raise transport.explain(samples.errors[0])
                measurements.append(summarise(served.name, batch_size, workers, samples, server))
        return measurements
    finally:
        transport.close()


def _check_sizes(model: ServedModel, batch_sizes: Sequence[int] | None) -> list[int]:
    if batch_sizes is None:
        return sorted({min(size, model.max_batch_size) for size in _DEFAULT_BATCH_SIZES})
    if max(batch_sizes) > model.max_batch_size:
        raise ClientError(
            f"The model '{model.name}' takes at most {model.max_batch_size} images per request, "
            f"not {max(batch_sizes)}.",
            "Measure smaller batches, or export it with a larger --max-batch-size.",
        )
    return list(batch_sizes)


def _statistics(transport: Transport, model: ServedModel) -> ServerStatistics:
    # The server counts a request after it has sent the answer.
    time.sleep(0.05)
    return read_statistics(transport.call("get_inference_statistics", model.name))


def _batches(model: ServedModel, batch_size: int, images: Pixels | None) -> list[Pixels]:
    if images is not None:
        return [np.resize(images, (batch_size, *model.image_shape))]
    random = np.random.default_rng(0)
    shape = (_DISTINCT_INPUTS, batch_size, *model.image_shape)
    return list(random.integers(0, 256, shape, dtype=np.uint8))
