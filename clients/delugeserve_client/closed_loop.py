"""The load of a benchmark: a fixed number of requests in flight."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from delugeserve_client.measurement import Samples
from delugeserve_client.preprocessing import Pixels
from delugeserve_client.served import PROBABILITIES, ServedModel
from delugeserve_client.transport import GrpcTransport, Transport, open_transport
from delugeserve_client.triton import build_request, failures

# A worker stops after this many errors in a row: a server that is gone fails at once, and a loop of
# errors measures nothing.
_MAX_ERRORS_IN_A_ROW = 10


class ClosedLoop:
    """A closed loop of workers, each of which sends its next request when its last is answered.

    Over gRPC a worker is a chain of callbacks: the callback of an answer sends the next request.
    All callbacks run in gRPC's one event thread, so they do not compete for the interpreter's lock.
    At 16 requests in flight, threads that block in ``infer`` took about half as much CPU time again
    per request, which a server on the same machine then lacks.

    tritonclient's HTTP client is bound to its thread, so over HTTP each worker is a thread with its
    own client.

    Args:
        transport: the connection.
        model: the model to ask.
        batches: uint8 ``[N, H, W, 3]`` each; sent in turn.
        workers: number of requests to keep in flight.
    """

    def __init__(
        self, transport: Transport, model: ServedModel, batches: Sequence[Pixels], workers: int
    ) -> None:
        self._transport = transport
        requests = [
            build_request(transport.module, model, batch, {PROBABILITIES: 0}, transport.timeout)
            for batch in batches
        ]
        starts = [worker % len(requests) for worker in range(workers)]
        self._turns = [itertools.cycle(requests[start:] + requests[:start]) for start in starts]

    def run(self, seconds: float) -> Samples:
        """Send requests for some seconds, then wait for those still in flight."""
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
        finally:  # after Ctrl-C the connection is closed, and nothing may be sent on it
            stopped.set()
        return samples

    def _run_threads(self, end: float) -> Samples:
        samples = Samples()
        stopped = threading.Event()

        def work(turns: Iterator[Mapping[str, Any]]) -> None:
            first = self._transport
            transport = open_transport(first.address, first.timeout, first.credentials)
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
