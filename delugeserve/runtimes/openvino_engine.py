"""An OpenVINO model on the CPU, with NumPy arrays as inputs and outputs.

The exporter verifies models with it, and the Python-based Triton backend serves them with it. It is
copied next to the backend's ``model.py``, so it needs NumPy and OpenVINO, but nothing of this
project.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Engine:
    """A model that is ready to run. Not thread-safe.

    Threads that share an inference wait for each other at every layer, which costs small networks
    up to half of their throughput. So a batch is split: each part runs on one thread, and all parts
    run at once. A batch that would leave most cores idle so, such as a single image, is run whole
    by all threads. Both ways give the same bits.

    Args:
        core: OpenVINO's core.
        path: the model.
        settings: of OpenVINO's CPU plugin, other than streams and threads.
        threads: number of threads; None for one a core.
        parts: most parts of a batch; None for one a thread, 1 never splits.

    Attributes:
        parts: most parts of a batch.
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

        def requests(streams: int) -> list[Any]:
            own = {
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": str(streams),
                # OpenVINO pins the threads of every process to the same cores. Then engines side
                # by side, and the server's own threads, take turns on one core and leave others
                # idle.
                "ENABLE_CPU_PINNING": False,
            }
            compiled = core.compile_model(model, "CPU", {**own, **settings})
            return [compiled.create_infer_request() for _ in range(streams)]

        (self._whole,) = requests(1)
        self._split = requests(self.parts) if self.parts > 1 else []
        compiled = self._whole.get_compiled_model()
        self._places = {
            name: place for place, output in enumerate(compiled.outputs) for name in output.names
        }
        self.inputs, self.outputs = _shapes(compiled.inputs), _shapes(compiled.outputs)

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
        count = len(batch)
        # Half of the threads on images of their own are faster than all of them on the same ones.
        if not self._split or count == 1 or 2 * count < self.parts:
            self._whole.infer([batch], share_inputs=True, share_outputs=True)
            return {name: self._output(self._whole, name) for name in outputs}
        requests = self._split[:count]
        parts = np.array_split(batch, len(requests))
        for request, part in zip(requests, parts, strict=True):
            request.start_async([part], share_inputs=True)
        for request in requests:
            request.wait()
        return {
            name: np.concatenate([self._output(request, name) for request in requests])
            for name in outputs
        }

    def _output(self, request: Any, name: str) -> NDArray[np.float32]:
        output: NDArray[np.float32] = request.get_output_tensor(self._places[name]).data
        return output


def _shapes(tensors: Any) -> dict[str, list[int]]:
    return {
        name: [size.get_length() if size.is_static else -1 for size in tensor.partial_shape]
        for tensor in tensors
        for name in tensor.names
    }
