"""An OpenVINO model on the CPU, with NumPy arrays as inputs and outputs.

The exporter verifies models with it, and the Python-based Triton backend serves them with it. It is
copied next to the backend's ``model.py``, so it needs NumPy and OpenVINO, but nothing of this
project.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SIZES = (4, 1)
"""Images in a part, the largest first. Larger parts are hardly faster for an image, and more sizes
take more memory: the weights of each are stored apart."""


class Engine:
    """A model that is ready to run. Not thread-safe.

    Threads that share an inference wait for each other at every layer, which costs small networks
    up to half of their throughput; and each batch of another size than the one before makes
    OpenVINO prepare every layer again. So a batch is split into parts of fixed sizes. Each part
    runs on one thread, and as many run at once as there are threads. A single image is run by all
    threads. Both give the same bits.

    Args:
        core: OpenVINO's core.
        path: the model.
        settings: of OpenVINO's CPU plugin, other than streams and threads.
        threads: number of threads; None for one a core.
        parts: most parts that run at once, each on an equal share of the threads; None for one a
            thread.

    Attributes:
        parts: most parts that run at once.
        inputs: shapes by name, with -1 for the batch.
        outputs: shapes by name, with -1 for the batch.

    Raises:
        RuntimeError: the model does not load; the message is the runtime's.
    """

    def __init__(
        self,
        core: Any,
        path: Path,
        settings: Mapping[str, Any],
        threads: int | None = None,
        parts: int | None = None,
    ) -> None:
        threads = threads or len(os.sched_getaffinity(0))
        self.parts = min(parts or threads, threads)
        model = core.read_model(path)
        self.inputs, self.outputs = _shapes(model.inputs), _shapes(model.outputs)
        self._places = {
            name: place for place, output in enumerate(model.outputs) for name in output.names
        }

        def requests(size: int, streams: int) -> _Requests:
            own = {
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": str(streams),
                # OpenVINO pins the threads of every process to the same cores. Then engines side
                # by side, and the server's own threads, take turns on one core and leave others
                # idle.
                "ENABLE_CPU_PINNING": False,
            }
            sized = model.clone()
            sized.reshape([size, *model.input().partial_shape[1:]])
            return _Requests(core.compile_model(sized, "CPU", {**own, **settings}))

        self._sized = {size: requests(size, self.parts) for size in _SIZES}
        self._alone = requests(1, 1) if self.parts > 1 else self._sized[1]

    def run(
        self, batch: NDArray[np.uint8], outputs: Sequence[str]
    ) -> dict[str, NDArray[np.float32]]:
        """Run a batch.

        Args:
            batch: ``[N, ...]``, contiguous. It is read in place.
            outputs: names of the wanted outputs.

        Returns:
            Arrays by name, each ``[N, ...]``. The next run may overwrite them.
        """
        if len(batch) == 1:
            (request,) = self._alone.take(1)
            request.infer([batch], share_inputs=True, share_outputs=True)
            return {name: self._output(request, name) for name in outputs}
        started: list[Any] = []
        start = 0
        try:
            for size, count in split(len(batch), self.parts).items():
                for request in self._sized[size].take(count):
                    request.start_async([batch[start : start + size]], share_inputs=True)
                    started.append(request)
                    start += size
                if self.parts == 1:  # the other size has a thread of its own
                    _wait(started)
        finally:  # a request that still runs could not be started again
            _wait(started)
        return {
            name: np.concatenate([self._output(request, name) for request in started])
            for name in outputs
        }

    def _output(self, request: Any, name: str) -> NDArray[np.float32]:
        output: NDArray[np.float32] = request.get_output_tensor(self._places[name]).data
        return output


def split(count: int, parts: int) -> dict[int, int]:
    """Return the number of parts of each size that a batch is split into.

    Args:
        count: images in the batch.
        parts: how many run at once. None of them gets more images than an equal share, rounded up.
    """
    found = {}
    for size in _SIZES:
        share = math.ceil(count / parts)
        found[size] = min(count // size, parts * (share // size))
        count -= size * found[size]
    return found


class _Requests:
    """The requests of a compiled model. As many run at once as it has streams; others wait."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._requests: list[Any] = []

    def take(self, count: int) -> list[Any]:
        """Return some requests, which the next call returns again."""
        while len(self._requests) < count:
            self._requests.append(self._compiled.create_infer_request())
        return self._requests[:count]


def _wait(requests: Sequence[Any]) -> None:
    """Wait for all requests, and raise the first error."""
    errors = []
    for request in requests:
        try:
            request.wait()
        except RuntimeError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _shapes(tensors: Any) -> dict[str, list[int]]:
    return {
        name: [size.get_length() if size.is_static else -1 for size in tensor.partial_shape]
        for tensor in tensors
        for name in tensor.names
    }
