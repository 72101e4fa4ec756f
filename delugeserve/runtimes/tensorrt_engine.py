"""A TensorRT or TensorRT-RTX plan on a GPU, from NumPy arrays to NumPy arrays.

The exporter verifies a plan with it, and the Python-based Triton backends serve one with it. For
them it is copied beside their ``model.py``, so it needs NumPy, NVIDIA's CUDA bindings and the
runtime, and nothing of this project.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

WEIGHTS = "model.onnx"
"""Beside a plan that was built without its weights: where they are."""


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """No garbage collection while a runtime builds or loads.

    It calls the logger with a lock held. A collection there that finds a dead builder, which takes
    that lock to end, would wait for ever.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Engine:
    """A plan that is ready to run. One thread at a time.

    Args:
        runtime: the module ``tensorrt`` or ``tensorrt_rtx``.
        path: the plan.
        device: number of the GPU.

    Attributes:
        inputs: shape by name, -1 for an open size.
        outputs: likewise.

    Raises:
        RuntimeError: the plan does not load; the message is the runtime's own.
    """

    @collection_paused()
    def __init__(self, runtime: ModuleType, path: Path, device: int = 0) -> None:
        from cuda.bindings import runtime as cuda

        self._cuda = cuda
        self._call(cuda.cudaSetDevice(device))
        self._stream = self._call(cuda.cudaStreamCreate())
        plan = path.read_bytes()
        log = RuntimeLog(runtime)
        self._runtime = make_runtime(runtime, log)
        engine: Any = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise RuntimeError(log.reason())
        if path.with_name(WEIGHTS).is_file():
            _refit(runtime, engine, path.with_name(WEIGHTS), log)
        names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
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
        self._cache = _RuntimeCache(engine, plan) if hasattr(runtime, "IRuntimeCache") else None
        self._context: Any = (
            self._cache.context if self._cache else engine.create_execution_context()
        )
        if self._context is None:
            raise RuntimeError(log.reason())
        for name, address in self._memory.items():
            self._context.set_tensor_address(name, int(address))
        self._engine = engine

    def run(self, batch: NDArray[Any], outputs: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        """Run a batch.

        Args:
            batch: ``[N, ...]``, contiguous, N at most what the plan's profile allows.
            outputs: names of the outputs that are wanted.

        Returns:
            New arrays by name, each ``[N, ...]``.
        """
        cuda, stream = self._cuda, self._stream
        if not 0 < len(batch) <= self._largest:
            raise ValueError(f"a batch has from 1 to {self._largest} images, and not {len(batch)}")
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
        if self._cache:
            self._cache.save(len(batch))
        return results

    def close(self) -> None:
        """Free what it holds on the GPU."""
        self._context = self._engine = self._cache = None
        for address in self._memory.values():
            self._cuda.cudaFree(address)
        self._cuda.cudaStreamDestroy(self._stream)

    def _empty(self, name: str, count: int) -> NDArray[Any]:
        shape = (self.inputs | self.outputs)[name]
        return np.empty((count, *shape[1:]), self._types[name])

    def _call(self, answer: tuple[Any, ...]) -> Any:
        """The value of a call to CUDA, which puts its status first."""
        status, *values = answer
        if int(status):
            _, text = self._cuda.cudaGetErrorString(status)
            raise RuntimeError(f"CUDA: {text.decode()}")
        return values[0] if values else None


class _RuntimeCache:
    """What TensorRT-RTX has compiled for this GPU, kept from one process to the next."""

    def __init__(self, engine: Any, plan: bytes) -> None:
        self._path = cache_folder() / f"{hashlib.sha256(plan).hexdigest()[:16]}.runtime-cache"
        self._seen: set[int] = set()
        config = engine.create_runtime_config()
        self._cache = config.create_runtime_cache()
        with contextlib.suppress(OSError):
            # One of another GPU or version is refused, and what it holds is compiled again.
            self._cache.deserialize(self._path.read_bytes())
        config.set_runtime_cache(self._cache)
        self.context = engine.create_execution_context(config)

    def save(self, batch_size: int) -> None:
        """Write the cache after the first batch of each size, which may have compiled more."""
        if batch_size not in self._seen:
            self._seen.add(batch_size)
            write_cache(self._path, bytes(self._cache.serialize()))


class RuntimeLog:
    """What a runtime says while it builds or loads.

    Attributes:
        logger: to give to the runtime.
        errors: its errors, in their order.
        layers: its list of an engine's layers, which it gives at the end of a build where it was
            asked for details; empty until then.
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
        """The first error, which is the cause of the others."""
        return self.errors[0].strip() if self.errors else "no reason given"


def make_runtime(runtime: ModuleType, log: RuntimeLog) -> Any:
    """What loads plans, those that other versions may load included.

    Such a plan brings code of its own for the host, which is refused unless it is allowed. A plan
    is our exporter's, or from the user's own repository.
    """
    made = runtime.Runtime(log.logger)
    if hasattr(made, "engine_host_code_allowed"):
        made.engine_host_code_allowed = True
    return made


def _refit(runtime: ModuleType, engine: Any, weights: Path, log: RuntimeLog) -> None:
    refitter = runtime.Refitter(engine, log.logger)
    parser = runtime.OnnxParserRefitter(refitter, log.logger)
    if not (parser.refit_from_file(str(weights)) and refitter.refit_cuda_engine()):
        raise RuntimeError(f"the weights of {weights.name} do not fit: {log.reason()}")


def cache_folder() -> Path:
    """Where caches lie: ``$XDG_CACHE_HOME/delugeserve``."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "delugeserve"


def write_cache(path: Path, content: bytes) -> None:
    """Write a cache beside its place and rename it; without room for it, go on without."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
        temporary.replace(path)
    except OSError:
        if temporary:
            temporary.unlink(missing_ok=True)
