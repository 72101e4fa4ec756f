"""An engine as the Triton backends and the exporter run it, without a GPU.

A fake runtime and a fake CUDA, whose device memory is ordinary memory, show that batches are copied
in and out intact. The real TensorRT-RTX shows the error without a GPU.
"""

from __future__ import annotations

import ctypes
import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from delugeserve.runtimes.tensorrt_engine import Engine
from delugeserve.system import hardware

SHAPES = {"image": (-1, 2, 3), "logits": (-1, 2), "probabilities": (-1, 2)}


class FakeCuda(ModuleType):
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


class FakeEngine:
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
    cuda = FakeCuda()
    bindings = ModuleType("cuda.bindings")
    bindings.runtime = cuda
    for name, module in (("cuda", ModuleType("cuda")), ("cuda.bindings", bindings)):
        monkeypatch.setitem(sys.modules, name, module)
    return cuda


@pytest.fixture
def engine(cuda, tmp_path):
    (tmp_path / "model.plan").write_bytes(b"plan")
    runtime = SimpleNamespace(
        ILogger=type("ILogger", (), {}),
        Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=lambda plan: FakeEngine()),
        TensorIOMode=SimpleNamespace(INPUT="in"),
        nptype=lambda kind: kind,
    )
    return Engine(runtime, tmp_path / "model.plan")


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


@pytest.mark.parametrize(
    ("shape", "reason"), [((9, 2, 3), "from 1 to 8"), ((1, 3, 3), "the shape")]
)
def test_a_batch_outside_the_profile_is_refused(engine, shape, reason):
    with pytest.raises(ValueError, match=reason):
        engine.run(np.zeros(shape, np.uint8), ["logits"])


def test_closing_frees_all_memory(engine, cuda):
    assert len(cuda.memory) == 3
    engine.close()
    assert not cuda.memory


@pytest.mark.skipif(bool(hardware.usable_gpus()), reason="this machine has a GPU")
def test_the_backend_reports_a_missing_driver(load_backend, tmp_path):
    for module in ("tensorrt_rtx", "cuda.bindings.runtime"):
        pytest.importorskip(module, reason="needs TensorRT-RTX: delugeserve[tensorrt-rtx]")
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.plan").touch()
    backend = load_backend("tensorrt_rtx")
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
    with pytest.raises(backend.pb_utils.TritonModelException, match=r"^model\.plan: CUDA: "):
        backend.TritonPythonModel().initialize(arguments)
