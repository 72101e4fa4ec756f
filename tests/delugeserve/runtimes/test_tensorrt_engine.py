"""An engine as the Triton backends and the exporter run it.

No GPU is at hand here. A stand-in for the runtime and for CUDA, whose device memory is ordinary
memory, shows that batches go in and out whole; the real TensorRT-RTX shows what is said without a
GPU, through the backend's own ``model.py``.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from delugeserve import serving
from delugeserve.runtimes import tensorrt_engine
from delugeserve.runtimes.tensorrt_engine import Engine, RuntimeLog, make_runtime, write_cache
from delugeserve.system import hardware

BACKENDS = Path(serving.__file__).parent / "backends"
SHAPES = {"image": (-1, 2, 3), "logits": (-1, 2), "probabilities": (-1, 2)}


class StandInCuda(ModuleType):
    """Device memory is the host's; a copy is a copy."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815

    def __init__(self):
        super().__init__("cuda.bindings.runtime")
        self.memory = {}

    def cudaMalloc(self, size):  # noqa: N802
        buffer = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(buffer)] = buffer
        return 0, ctypes.addressof(buffer)

    def cudaFree(self, address):  # noqa: N802
        del self.memory[address]
        return (0,)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):  # noqa: N802
        ctypes.memmove(target, source, size)
        return (0,)

    def cudaStreamCreate(self):  # noqa: N802
        return 0, 7

    def __getattr__(self, name):
        return lambda *_: (0,)


class StandInEngine:
    """Sums an image's rows for logits, and twice that for probabilities; takes eight at most."""

    num_io_tensors = 3

    def __init__(self):
        self.addresses = {}

    def get_tensor_name(self, place):
        return list(SHAPES)[place]

    def get_tensor_shape(self, name):
        return SHAPES[name]

    def get_tensor_mode(self, name):
        return "in" if name == "image" else "out"

    def get_tensor_dtype(self, name):
        return np.uint8 if name == "image" else np.float32

    def get_tensor_profile_shape(self, name, profile):
        return [(count, *SHAPES[name][1:]) for count in (1, 4, 8)]

    def create_execution_context(self):
        return self

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def set_input_shape(self, name, shape):
        self.shape = shape
        return shape[1:] == SHAPES[name][1:]

    def execute_async_v3(self, stream):
        def at(name, shape, kind):
            size = int(np.prod(shape)) * np.dtype(kind).itemsize
            return np.frombuffer(
                (ctypes.c_char * size).from_address(self.addresses[name]), kind
            ).reshape(shape)

        sums = at("image", self.shape, np.uint8).sum(axis=2)
        at("logits", sums.shape, np.float32)[...] = sums
        at("probabilities", sums.shape, np.float32)[...] = 2 * sums
        return True


@pytest.fixture
def cuda(monkeypatch):
    cuda = StandInCuda()
    bindings = ModuleType("cuda.bindings")
    bindings.runtime = cuda
    for name, module in (("cuda", ModuleType("cuda")), ("cuda.bindings", bindings)):
        monkeypatch.setitem(sys.modules, name, module)
    return cuda


class StandInRuntime:
    """Loads a plan that brings code for the host, once that is allowed."""

    engine_host_code_allowed = False

    def deserialize_cuda_engine(self, plan):
        return StandInEngine() if self.engine_host_code_allowed else None


class OlderRuntime:
    """Knows of no such plans, and lets nobody add an attribute."""

    __slots__ = ()

    def deserialize_cuda_engine(self, plan):
        return StandInEngine()


@pytest.fixture
def load(cuda, tmp_path):
    (tmp_path / "model.plan").write_bytes(b"plan")

    def load(kind=StandInRuntime):
        runtime = SimpleNamespace(
            ILogger=type("ILogger", (), {}),
            Runtime=lambda log: kind(),
            TensorIOMode=SimpleNamespace(INPUT="in"),
            nptype=lambda kind: kind,
        )
        return Engine(runtime, tmp_path / "model.plan")

    return load


@pytest.fixture
def engine(load):
    return load()


@pytest.mark.parametrize("kind", [StandInRuntime, OlderRuntime])
def test_a_plan_that_later_versions_load_is_loaded(load, kind):
    assert load(kind).inputs == {"image": [-1, 2, 3]}


def test_the_real_runtime_may_be_told_to_allow_such_plans():
    rtx = pytest.importorskip("tensorrt_rtx", reason="needs delugeserve[tensorrt-rtx]")
    assert make_runtime(rtx, RuntimeLog(rtx)).engine_host_code_allowed


def test_batches_of_every_size_go_through_whole(engine):
    assert engine.inputs == {"image": [-1, 2, 3]}
    assert engine.outputs == {"logits": [-1, 2], "probabilities": [-1, 2]}
    rng = np.random.default_rng(0)
    for count in (8, 1, 5):
        images = rng.integers(0, 256, (count, 2, 3), dtype=np.uint8)
        results = engine.run(images, ["probabilities", "logits"])
        np.testing.assert_array_equal(results["logits"], images.sum(axis=2))
        np.testing.assert_array_equal(results["probabilities"], 2 * images.sum(axis=2))


def test_results_outlive_the_next_run(engine):
    first = engine.run(np.ones((2, 2, 3), np.uint8), ["logits"])["logits"]
    engine.run(np.zeros((2, 2, 3), np.uint8), ["logits"])
    assert (first == 3).all()


@pytest.mark.parametrize(("shape", "said"), [((9, 2, 3), "from 1 to 8"), ((1, 3, 3), "the shape")])
def test_what_the_profile_does_not_take_is_refused(engine, shape, said):
    with pytest.raises(ValueError, match=said):
        engine.run(np.zeros(shape, np.uint8), ["logits"])


def test_closing_frees_all_memory(engine, cuda):
    assert len(cuda.memory) == 3
    engine.close()
    assert not cuda.memory


@pytest.mark.skipif(bool(hardware.usable_gpus()), reason="this machine has a GPU")
def test_the_backend_says_in_a_sentence_that_there_is_no_gpu(monkeypatch, tmp_path):
    for module in ("tensorrt_rtx", "cuda.bindings.runtime"):
        pytest.importorskip(module, reason="needs TensorRT-RTX: delugeserve[tensorrt-rtx]")
    triton = ModuleType("triton_python_backend_utils")
    triton.TritonModelException = type("TritonModelException", (Exception,), {})
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    monkeypatch.setitem(sys.modules, "tensorrt_engine", tensorrt_engine)
    for name, path in (("batching", "batching.py"), ("model_under_test", "tensorrt_rtx/model.py")):
        spec = importlib.util.spec_from_file_location(name, BACKENDS / path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.plan").touch()
    config = {
        "max_batch_size": 8,
        "default_model_filename": "model.plan",
        "input": [{"name": "image", "dims": [32, 32, 3]}],
        "output": [{"name": "logits", "dims": [10]}],
        "instance_group": [{"count": 1}],
    }
    arguments = {
        "model_config": json.dumps(config),
        "model_name": "net",
        "model_repository": str(tmp_path),
        "model_version": "1",
        "model_instance_device_id": "0",
    }
    with pytest.raises(triton.TritonModelException, match=r"^model\.plan: CUDA: .*driver"):
        module.TritonPythonModel().initialize(arguments)


def test_a_cache_that_finds_no_room_is_left_out(tmp_path):
    (tmp_path / "file").touch()
    write_cache(tmp_path / "file" / "cache", b"timings")
    write_cache(tmp_path / "caches" / "cache", b"timings")
    assert [path.name for path in (tmp_path / "caches").iterdir()] == ["cache"]
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    write_cache(tmp_path / "folder", b"timings")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["caches", "file", "folder"]
