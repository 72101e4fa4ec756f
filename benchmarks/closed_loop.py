"""Closed-loop load on a server: a fixed number of requests in flight, at minimal client cost.

Client, server and engine share the cores, so the client's work slows the server down. The client
is therefore one process with the sender of the load tests, which speaks gRPC over a plain socket:
requests are prepared in advance, responses are counted, and the callback of a response, on the
sender's own thread, sends the next request.
"""

from __future__ import annotations

import threading
import time
from itertools import cycle

import numpy as np
from common import Served

from delugeserve.load import Target, open_sender
from delugeserve.zoo import find_model

DISTINCT = 16  # different requests, sent in turn
FEWEST = 8  # responses in a window per request in flight; fewer would be noise


class ClosedLoop:
    """Measures throughput with a fixed number of requests in flight; a call returns images/s.

    Args:
        server: the server.
        model: name of the model.
        batch: images per request.
        flying: requests in flight.
        seconds: length of the window, after a warm-up of a quarter of it. Both are lengthened to a
            multiple for a slow model.

    Attributes:
        cores: cores that this process itself used in the window, one figure per call.
        cpu: CPU time of client and server for an image in the window, in seconds, one figure per
            call.
        executed: images per inference, as the server counts them, one figure per call.
    """

    def __init__(self, server: Served, model: str, batch: int, flying: int, seconds: float) -> None:
        self.server, self.client = server, server.client
        self.model, self.batch, self.flying = model, batch, flying
        self.seconds = seconds
        self.cores: list[float] = []
        self.cpu: list[float] = []
        self.executed: list[float] = []
        images = random_images(DISTINCT * batch, find_model(model).task.image_size)
        self._target = Target(server.url, model, images, batch_size=batch)
        self._turns = cycle(np.arange(len(images)).reshape(DISTINCT, batch).tolist())

    def __call__(self) -> float:
        """Run the loop once and return images/s."""
        self._answers: list[float] = []
        self._failure: str | None = None
        self._sender = open_sender(self._target)
        self._stopping, self._landed = False, threading.Semaphore(0)
        for _ in range(self.flying):
            self._send()
        self._sleep(self.seconds / 4, self.flying)
        before = self._statistics()
        start, used, server = time.perf_counter(), time.process_time(), self.server.cpu()
        self._sleep(self.seconds, FEWEST * self.flying)
        end, used = time.perf_counter(), time.process_time() - used
        server = self.server.cpu() - server
        after = self._statistics()
        self._stopping = True
        for _ in range(self.flying):
            self._landed.acquire()
        self._sender.close()
        if self._failure:
            raise RuntimeError(self._failure)
        self.cores.append(used / (end - start))
        images, runs = np.subtract(after, before)
        self.executed.append(images / max(runs, 1))
        # Responses of one dynamic batch arrive together. A window that begins and ends by the
        # clock, not with a response, is not biased by that.
        answered = self.batch * sum(start <= moment < end for moment in self._answers)
        self.cpu.append((used + server) / max(answered, 1))
        return answered / (end - start)

    def _sleep(self, seconds: float, answers: int) -> None:
        """Sleep for ``seconds``, repeatedly until ``answers`` more responses have arrived."""
        wanted = len(self._answers) + answers
        while not self._failure:
            time.sleep(seconds)
            if len(self._answers) >= wanted:
                break

    def _send(self) -> None:
        self._sender.send(next(self._turns), self._answered)

    def _answered(self, _answer: bytes | None, error: str | None) -> None:
        self._answers.append(time.perf_counter())
        self._failure = self._failure or error
        if self._stopping or error:
            self._landed.release()
        else:
            self._send()

    def _statistics(self) -> tuple[int, int]:
        (counted,) = self.client.get_inference_statistics(self.model).model_stats
        return counted.inference_count, counted.execution_count


def random_images(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Draw random pixels, uint8 ``[count, size, size, 3]``."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)
