"""Stubs of known delays for the tests of load tests: in process, and as a gRPC server."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from concurrent import futures
from dataclasses import dataclass

import numpy as np

CLASSES = 4
ANSWER = np.full(CLASSES, 0.25, np.float32)


def ask(sender, *requests):
    """Send requests at once, and return their answers in the order of the requests."""
    answers, landed = [None] * len(requests), threading.Semaphore(0)
    for number, sample_ids in enumerate(requests):

        def done(answer, error, number=number):
            answers[number] = (answer, error)
            landed.release()

        sender.send(sample_ids, done)
    for _ in requests:
        assert landed.acquire(timeout=20)
    return answers


@dataclass(frozen=True)
class Delays:
    """How long each request takes, by its number.

    Attributes:
        kind: ``fixed``, ``exponential`` or ``stall``: fixed, but everything that arrives within a
            second of the stall's start is held until its end.
        mean: seconds.
        stall_at: seconds after the first request.
        stall: seconds.
    """

    kind: str = "fixed"
    mean: float = 0.005
    stall_at: float = 1.0
    stall: float = 1.0

    def draw(self, number: int, since_first: float) -> float:
        """Return the delay of a request in seconds."""
        if self.kind == "exponential":
            return float(np.random.default_rng(number).exponential(self.mean))
        end = self.stall_at + self.stall
        if self.kind == "stall" and self.stall_at <= since_first < end:
            return end - since_first + self.mean
        return self.mean


class StubSender:
    """Answers each request after a known delay, and records the delay that it really took.

    The test runs it in another process, so the record goes to a file.
    """

    def __init__(self, delays: Delays, record: str = "", *, wrong=False, fail_every=0, same=1.0):
        self.delays, self.record = delays, record
        self.wrong, self.fail_every, self.same = wrong, fail_every, same
        self.times: list[tuple[float, float]] = []
        self._numbers = itertools.count()
        self._last: tuple[int, ...] | None = None
        self._first: float | None = None
        self._queue: list = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def send(self, sample_ids, done):
        now = time.perf_counter()
        self._first = self._first or now
        number = next(self._numbers)
        delay = self.delays.draw(number, now - self._first)
        if tuple(sample_ids) == self._last:
            delay *= self.same
        self._last = tuple(sample_ids)
        entry = (now + delay, number, now, len(sample_ids), done)
        with self._changed:
            heapq.heappush(self._queue, entry)
            if self._queue[0] is entry:
                self._changed.notify()

    def _answer(self):
        while True:
            with self._changed:
                while not self._closed and not self._queue:
                    self._changed.wait()
                if self._closed:
                    return
                wait = self._queue[0][0] - time.perf_counter()
                if wait > 0:
                    self._changed.wait(wait)
                    continue
                _, number, sent, count, done = heapq.heappop(self._queue)
            self.times.append((sent, time.perf_counter()))
            if self.fail_every and number % self.fail_every == self.fail_every - 1:
                done(None, "UNAVAILABLE: stub")
            else:
                done((ANSWER * (2 if self.wrong else 1)).tobytes() * count, None)

    def close(self):
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        if self.record:
            np.save(self.record, np.asarray(self.times))


@dataclass(frozen=True)
class OpenStub:
    """Opens a :class:`StubSender` in the process of a test."""

    delays: Delays
    record: str = ""
    wrong: bool = False
    fail_every: int = 0
    same: float = 1.0

    def __call__(self, target):
        return StubSender(
            self.delays,
            self.record,
            wrong=self.wrong,
            fail_every=self.fail_every,
            same=self.same,
        )


class StubServer:
    """A gRPC server with one model, ``stub``, whose requests take a known time.

    Args:
        delay: seconds that a request takes.
        size: height and width of the model's images.
        fail: the gRPC status code and text of every answer; None answers.
    """

    def __init__(self, delay=0.0, size=2, fail=None, max_streams=None, model="stub"):
        import grpc
        from tritonclient.grpc import service_pb2, service_pb2_grpc

        self.delay, self.size, self.fail, self.model = delay, size, fail, model
        self.requests: list = []
        self._stopped = threading.Event()
        owner = self

        class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
            def ServerMetadata(self, request, context):  # noqa: N802
                return service_pb2.ServerMetadataResponse(name="stub", version="2.0-stub")

            def RepositoryIndex(self, request, context):  # noqa: N802
                index = service_pb2.RepositoryIndexResponse
                model = index.ModelIndex(name=owner.model, version="1", state="READY")
                return index(models=[model])

            def ModelMetadata(self, request, context):  # noqa: N802
                if request.name != owner.model:
                    context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model '{request.name}'")
                metadata = service_pb2.ModelMetadataResponse
                tensor = metadata.TensorMetadata
                return metadata(
                    name=owner.model,
                    versions=["1"],
                    inputs=[tensor(name="image", datatype="UINT8", shape=[-1, size, size, 3])],
                    outputs=[tensor(name="probabilities", datatype="FP32", shape=[-1, CLASSES])],
                )

            def ModelConfig(self, request, context):  # noqa: N802
                config = service_pb2.ModelConfigResponse()
                config.config.name = owner.model
                config.config.max_batch_size = 8
                return config

            def ModelStatistics(self, request, context):  # noqa: N802
                statistics = service_pb2.ModelStatisticsResponse()
                model = statistics.model_stats.add(name=owner.model, version="1")
                model.inference_count = model.execution_count = len(owner.requests)
                return statistics

            def ModelInfer(self, request, context):  # noqa: N802
                owner.requests.append(request)
                if owner.fail is not None:
                    context.abort(*owner.fail)
                if owner._stopped.wait(owner.delay):
                    context.abort(grpc.StatusCode.UNAVAILABLE, "stopped")
                count = request.inputs[0].shape[0]
                reply = service_pb2.ModelInferResponse(model_name=owner.model)
                reply.outputs.add(name="probabilities", datatype="FP32", shape=[count, CLASSES])
                reply.raw_output_contents.append(ANSWER.tobytes() * count)
                return reply

        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)]
        if max_streams is not None:
            options.append(("grpc.max_concurrent_streams", max_streams))
        self._server = grpc.server(futures.ThreadPoolExecutor(8), options=options)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), self._server)
        self.url = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *_):
        stopping = self._server.stop(0)  # what is in flight is not answered
        self._stopped.set()
        stopping.wait()
