"""A TensorRT or TensorRT-RTX plan on a GPU, with NumPy arrays as inputs and outputs.

The exporter verifies plans with it, and the Python-based Triton backends serve them with it. It is
copied next to their ``model.py``, so it needs NumPy, NVIDIA's CUDA bindings and the runtime, but
nothing of this project.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Pause garbage collection while a runtime builds or loads.

    The runtime calls the logger with a lock held. A collection at that moment that finds an unused
    builder, whose destructor takes the same lock, would deadlock.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Engine:
    """A plan that is ready to run. Not thread-safe.

    Args:
        runtime: the module ``tensorrt`` or ``tensorrt_rtx``.
        path: the plan.
        device: number of the GPU.

    Attributes:
        inputs: shapes by name, with -1 for the batch.
        outputs: shapes by name, with -1 for the batch.

    Raises:
        RuntimeError: the plan does not load; the message is the runtime's.
    """

    @collection_paused()
    def __init__(self, runtime: ModuleType, path: Path, device: int = 0) -> None:
        from cuda.bindings import runtime as cuda

        self._cuda = cuda
        self._call(cuda.cudaSetDevice(device))
        self._stream = self._call(cuda.cudaStreamCreate())
        log = RuntimeLog(runtime)
        self._runtime = runtime.Runtime(log.logger)
        engine: Any = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise RuntimeError(log.reason())
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        shapes = {name: list(engine.get_tensor_shape(name)) for name in names}
        sources = {n for n in names if engine.get_tensor_mode(n) == runtime.TensorIOMode.INPUT}
        self.inputs = {name: shapes[name] for name in names if name in sources}
        self.outputs = {name: shapes[name] for name in names if name not in sources}
        (self._input,) = self.inputs
        self._largest = engine.get_tensor_profile_shape(self._input, 0)[2][0]
        self._types = {name: runtime.nptype(engine.get_tensor_dtype(name)) for name in names}
        self._memory = {
            name: self._call(cuda.cudaMalloc(self._empty(name, self._largest).nbytes))
            for name in names
        }
        self._context: Any = engine.create_execution_context()
        if self._context is None:
            raise RuntimeError(log.reason())
        for name, address in self._memory.items():
            self._context.set_tensor_address(name, int(address))
        self._engine = engine

    def run(self, batch: NDArray[Any], outputs: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        """Run a batch.

        Args:
            batch: ``[N, ...]``, with N at most the largest batch of the plan's profile.
            outputs: names of the wanted outputs.

        Returns:
            New arrays by name, each ``[N, ...]``.

        Raises:
            ValueError: the batch is too large, or has the wrong shape.
            RuntimeError: CUDA fails.
        """
        cuda, stream = self._cuda, self._stream
        if not 0 < len(batch) <= self._largest:
            raise ValueError(f"a batch has from 1 to {self._largest} images, not {len(batch)}")
        if not self._context.set_input_shape(self._input, batch.shape):
            raise ValueError(f"'{self._input}' cannot have the shape {list(batch.shape)}")
        batch = np.ascontiguousarray(batch, self._types[self._input])
        kinds = cuda.cudaMemcpyKind
        source = (self._memory[self._input], batch.ctypes.data, batch.nbytes)
        self._call(cuda.cudaMemcpyAsync(*source, kinds.cudaMemcpyHostToDevice, stream))
        if not self._context.execute_async_v3(int(stream)):
            raise RuntimeError("the engine did not start")
        results = {name: self._empty(name, len(batch)) for name in outputs}
        for name, array in results.items():
            target = (array.ctypes.data, self._memory[name], array.nbytes)
            self._call(cuda.cudaMemcpyAsync(*target, kinds.cudaMemcpyDeviceToHost, stream))
        self._call(cuda.cudaStreamSynchronize(stream))
        return results

    def close(self) -> None:
        """Free its memory on the GPU."""
        self._context = self._engine = None
        for address in self._memory.values():
            self._cuda.cudaFree(address)
        self._cuda.cudaStreamDestroy(self._stream)

    def _empty(self, name: str, count: int) -> NDArray[Any]:
        shape = (self.inputs | self.outputs)[name]
        return np.empty((count, *shape[1:]), self._types[name])

    def _call(self, answer: tuple[Any, ...]) -> Any:
        """Return the value of a call to CUDA, whose first item is its status."""
        status, *values = answer
        if int(status):
            _, text = self._cuda.cudaGetErrorString(status)
            raise RuntimeError(f"CUDA: {text.decode()}")
        return values[0] if values else None


class RuntimeLog:
    """The messages of a runtime while it builds or loads.

    Attributes:
        logger: the logger to pass to the runtime.
        errors: its errors, in order.
        layers: its list of the engine's layers, given at the end of a build with detailed
            profiling; empty until then.
    """

    def __init__(self, runtime: ModuleType) -> None:
        self.errors: list[str] = []
        self.layers = ""
        kept = self

        class Logger(runtime.ILogger):  # type: ignore[name-defined, misc]
            def __init__(self) -> None:
                runtime.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity <= runtime.ILogger.Severity.ERROR:
                    kept.errors.append(message)
                elif message.startswith("Layers:"):
                    kept.layers = message

        self.logger = Logger()

    def reason(self) -> str:
        """Return the first error, which causes the others."""
        return self.errors[0].strip() if self.errors else "no reason given"
