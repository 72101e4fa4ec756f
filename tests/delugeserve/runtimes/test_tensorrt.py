"""Plans that the real TensorRT-RTX builds; running them needs a GPU.

TensorRT does not install without its own package index. TensorRT-RTX, which has the same API, takes
its place.
"""

import dataclasses
import gc
import os
import re
import resource

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from delugeserve.artifacts.manifest import read_manifest
from delugeserve.artifacts.records import Profile
from delugeserve.errors import (
    BuildError,
    MissingDeviceError,
    PlanError,
    RepositoryError,
    UsageError,
)
from delugeserve.networks.build import build_network
from delugeserve.networks.checkpoint import Checkpoint, save_checkpoint
from delugeserve.networks.inference import fold
from delugeserve.runtimes import tensorrt
from delugeserve.runtimes.base import BuildOptions
from delugeserve.runtimes.tensorrt import TensorRt, TensorRtRtx, count_precisions
from delugeserve.runtimes.tensorrt_engine import RuntimeLog
from delugeserve.system import hardware
from delugeserve.system.hardware import Gpu
from delugeserve.verification.verify import verify_version
from delugeserve.zoo import CIFAR10, Architecture, ModelSpec
from delugeserve_export import export, pipeline, plan_export
from delugeserve_export.graph import build_graph

rtx = pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: delugeserve[tensorrt-rtx]")
needs_no_gpu = pytest.mark.skipif(bool(hardware.usable_gpus()), reason="this machine has a GPU")

TINY = ModelSpec("tiny", Architecture("tiny", "cifar", (4, 6), (2, 2)), CIFAR10)


class TensorRtOnRtx(TensorRt):
    """TensorRT's record, with the library that installs and builds everywhere."""

    module = "tensorrt_rtx"


@pytest.fixture(scope="module")
def network():
    network = build_network(TINY, seed=0)
    with torch.no_grad():  # signals of a trained network's size
        for _ in range(5):
            network(torch.randn(32, 3, 32, 32))
        network.head.linear.weight.mul_(10)
    return network.eval()


@pytest.fixture(scope="module")
def graphs(network):
    folded = fold(network)
    return {
        name: build_graph(folded, CIFAR10, float_type=name) for name in ("fp32", "fp16", "bf16")
    }


@pytest.fixture
def log(monkeypatch):
    """What the builder reports about the engine's layers and tensors."""
    logs = []
    monkeypatch.setattr(
        tensorrt, "RuntimeLog", lambda runtime: logs.append(RuntimeLog(runtime)) or logs[-1]
    )
    return lambda: logs[-1].layers


@pytest.fixture
def build(graphs, tmp_path):
    """Build a plan with TensorRT-RTX, or with another backend."""

    def run(backend=None, graph="fp16", **options):
        return (backend or TensorRtRtx()).build(
            graphs.get(graph, graph), tmp_path, BuildOptions(**options)
        )

    return run


@pytest.fixture
def plan_for(network, tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(Checkpoint(TINY, network.state_dict()), path)
    options = {"backend": "tensorrt-rtx", "precision": "fp16", "max_batch_size": 16}
    repository = tmp_path / "repository"
    return lambda **changes: plan_export(TINY, path, repository=repository, **options | changes)


def details_of(plan):
    return TensorRtRtx().describe(plan)


@pytest.mark.parametrize(
    ("precision", "name"), [("fp32", "Float"), ("fp16", "Half"), ("bf16", "BFloat16")]
)
def test_the_engine_computes_in_the_types_of_its_graph(build, log, precision, name):
    plan = build(graph=precision)
    details = details_of(plan)
    assert details.precisions_of == "engine"
    assert details.precisions.keys() == {precision}
    # There are fifteen; the narrowest may have become sums within another layer.
    assert details.precisions[precision] in range(12, 16)
    assert TensorRtRtx().executed_precisions(plan, precision) == {"Convolution": details.precisions}
    assert set(re.findall(r"Datatype: (\w+)", log())) == {name, "Float", "UInt8"}


def test_without_the_builders_report_the_network_is_counted(graphs):
    log = RuntimeLog(rtx)
    builder = rtx.Builder(log.logger)
    network = builder.create_network(0)
    assert rtx.OnnxParser(network, log.logger).parse(graphs["bf16"])
    assert count_precisions(rtx, network, "") == ({"bf16": 15}, "network")


def test_the_profile_has_the_batch_sizes(build, log):
    plan = build(max_batch_size=24, optimal_batch_size=6)
    (image,) = re.findall(r"Name: image, IOMode: (.*)", log())
    assert image.startswith("Input, DataType: UInt8, Dimensions: [-1,32,32,3]")
    assert "MinShape: [1,32,32,3], OptShape: [6,32,32,3], MaxShape: [24,32,32,3]" in image
    outputs = r"Name: (\w+), IOMode: Output, DataType: (\w+), Dimensions: (\S+),"
    assert re.findall(outputs, log()) == [
        ("logits", "Float", "[-1,10]"),
        ("probabilities", "Float", "[-1,10]"),
    ]
    assert details_of(plan).profile == {
        "image": Profile((1, 32, 32, 3), (6, 32, 32, 3), (24, 32, 32, 3))
    }
    assert details_of(build(max_batch_size=24)).profile["image"].opt[0] == 16


def test_a_plan_holds_the_builders_bytes_and_no_others(build):
    plan = build().read_bytes()
    # The header: a tag, the size, the version, and a bit for each GPU that it is built for.
    assert plan[:4] == b"vtrt"
    assert int.from_bytes(plan[16:24], "little") == len(plan)
    assert ".".join(map(str, plan[24:28])) == rtx.__version__
    assert plan[32] == 0b1111110


def test_a_plan_of_rtx_is_portable(build):
    details = details_of(build())
    assert details.compute_capabilities == ()
    assert details.minimum_compute_capability == "8.0"
    assert details.built_on is None


class OneBatch(CalibrationDataReader):
    def __init__(self):
        images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
        self._batches = iter([{"image": images}])

    def get_next(self):
        return next(self._batches, None)


def test_a_quantised_graph_builds_as_any_other(build, graphs, tmp_path):
    (tmp_path / "fp32.onnx").write_bytes(graphs["fp32"])
    quantize_static(
        tmp_path / "fp32.onnx",
        tmp_path / "int8.onnx",
        OneBatch(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv"],
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,  # the parser takes no quantised bias
        },
    )
    plan = build(graph=(tmp_path / "int8.onnx").read_bytes())
    precisions = details_of(plan).precisions
    assert precisions["int8"] > 10
    assert precisions.keys() <= {"int8", "fp32"}


def test_a_graph_that_the_parser_refuses_is_named_by_its_node(build):
    value = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3])
    node = helper.make_node("Nothing", ["image"], ["out"], "odd one", domain="com.example")
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 3])
    model = helper.make_model(
        helper.make_graph([node], "graph", [value], [out]),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)],
    )
    with pytest.raises(BuildError) as caught:
        build(graph=onnx.ModelProto.SerializeToString(model))
    assert caught.value.node == "odd one"


@pytest.mark.parametrize("tuned", [0, 65])
def test_a_bad_optimal_batch_size_is_refused_before_any_work(build, tmp_path, tuned):
    with pytest.raises(UsageError, match="--optimal-batch-size"):
        build(optimal_batch_size=tuned)
    assert not list(tmp_path.iterdir())


def test_a_failed_build_gives_the_runtimes_reason(build, monkeypatch, tmp_path):
    monkeypatch.setattr(rtx.Builder, "build_serialized_network", lambda *_: None)
    monkeypatch.setattr(RuntimeLog, "reason", lambda self: "Myelin ran out of memory")
    with pytest.raises(BuildError, match="Myelin ran out of memory"):
        build()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("precision", "refused"), [("fp16", True), ("int8", True), ("bf16", False)]
)
def test_sums_that_overflow_are_refused(plan_for, precision, refused):
    if refused:
        with pytest.raises(UsageError, match="overflows") as caught:
            plan_for(precision=precision, sum_form="horner")
        assert "--sum-form mul" in caught.value.remedy
    else:
        assert plan_for(precision=precision, sum_form="horner").sum_form == "horner"


def test_nothing_is_collected_while_a_runtime_builds(build, monkeypatch):
    """The runtime logs with a lock held, for which a collected builder would wait forever."""
    seen, builder = [], rtx.Builder
    monkeypatch.setattr(rtx, "Builder", lambda log: seen.append(gc.isenabled()) or builder(log))
    build()
    assert seen == [False]
    assert gc.isenabled()


@pytest.fixture
def gpu(monkeypatch):
    """Pretend to have GPUs of some compute capabilities, by default one of 8.9."""

    def pretend(*capabilities):
        gpus = tuple(
            Gpu(f"NVIDIA {index}", "550.54", capability, "23034 MiB", index)
            for index, capability in enumerate(capabilities or ("8.9",))
        )
        monkeypatch.setattr(hardware, "usable_gpus", lambda: gpus)

    return pretend


def test_a_plan_of_tensorrt_is_for_the_gpu_that_built_it(build, gpu):
    gpu()
    details = details_of(build(TensorRtOnRtx(), graph="fp32"))
    assert details.compute_capabilities == ("8.9",)
    assert details.minimum_compute_capability is None
    assert details.built_on == "NVIDIA 0"
    assert details.precisions.keys() == {"fp32"}


@needs_no_gpu
def test_tensorrt_builds_on_a_gpu_only(build):
    with pytest.raises(MissingDeviceError):
        build(TensorRtOnRtx())
    assert TensorRtOnRtx().missing_to_build() == "an NVIDIA GPU"
    assert TensorRtRtx().missing_to_build() is None


@needs_no_gpu
def test_a_plan_does_not_load_without_a_gpu(build):
    with pytest.raises(MissingDeviceError):
        TensorRtRtx().load(build(), "fp16")


def test_a_plan_for_other_gpus_does_not_load(build, gpu, monkeypatch):
    plan = build()
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    gpu("7.5")
    with pytest.raises(PlanError) as caught:
        TensorRtRtx().load(plan, "fp16")
    assert (caught.value.required, caught.value.found) == ("8.0 or later", "7.5")
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    gpu("7.5", "8.9")
    with pytest.raises(PlanError) as caught:
        TensorRtRtx().load(plan, "fp16")
    assert "CUDA_VISIBLE_DEVICES=1" in caught.value.remedy


@needs_no_gpu
def test_the_drivers_reason_is_passed_on(build, gpu):
    pytest.importorskip("cuda.bindings.runtime")
    gpu()
    plan = build()
    with pytest.raises(PlanError, match=r"CUDA: ") as caught:
        TensorRtRtx().load(plan, "fp16")
    assert "driver" in caught.value.remedy
    details = plan.with_name("engine.json")
    details.write_text(details.read_text().replace(rtx.__version__, "1.6.0.1"))
    with pytest.raises(PlanError) as caught:
        TensorRtRtx().load(plan, "fp16")
    assert (caught.value.required, caught.value.found) == ("1.6.0.1", rtx.__version__)
    assert "tensorrt-rtx==1.6.0.1" in caught.value.remedy


@needs_no_gpu
def test_an_export_without_a_gpu_is_built_and_not_run(plan_for):
    plan = plan_for(precision="bf16")
    done = export(plan)
    assert tuple(done.seconds) == plan.stages
    manifest = read_manifest(done.folder)
    verification = manifest.verification
    assert verification.status == "built, not run"
    assert verification.comparisons == ()
    here, in_engine, in_graph = verification.checks
    assert "an NVIDIA GPU" in here.found
    assert in_engine.found == "matrix products: 15 in bf16"
    assert in_graph.name == "ONNX graph in bf16, by OpenVINO"
    assert manifest.engine.version == rtx.__version__
    assert manifest.engine.profile["image"].max == (16, 32, 32, 3)
    assert manifest.speed == {}
    assert manifest.files.keys() == {
        "model.plan", "engine.json", "evidence.npz", "generated.pbtxt", "labels.txt",
    }  # fmt: skip
    config = (done.folder.parent / "config.pbtxt").read_text()
    assert 'backend: "tensorrt_rtx"' in config
    assert "kind: KIND_GPU" in config


@needs_no_gpu
def test_a_plan_is_verified_at_the_batch_size_it_is_tuned_for(plan_for, monkeypatch):
    plan = plan_for(optimal_batch_size=12)
    assert plan.batch_sizes == (1, 7, 12, 16)
    folder = export(plan).folder
    compared = []

    def load(self, artefact, precision):
        def infer(images):
            compared.append(len(images))
            return np.zeros((len(images), 10), np.float32), np.full(
                (len(images), 10), np.float32(0.1)
            )

        return infer

    monkeypatch.setattr(TensorRtRtx, "load", load)
    assert not verify_version(folder).passed
    assert {1, 7, 12, 16} == set(compared)


@needs_no_gpu
def test_a_plan_that_the_gpu_here_refuses_is_built_and_not_run(plan_for, monkeypatch):
    pytest.importorskip("cuda.bindings.runtime")
    monkeypatch.setattr(
        hardware, "usable_gpus", lambda: (Gpu("NVIDIA L4", "550.54", "8.9", "23034 MiB"),)
    )
    verification = export(plan_for()).manifest.verification
    assert verification.status == "built, not run"
    reason = verification.checks[0].found
    assert reason.startswith(f"TensorRT-RTX {rtx.__version__} cannot load model.plan: CUDA: ")


def test_fp32_in_place_of_fp16_is_rejected(plan_for, monkeypatch):
    monkeypatch.setattr(TensorRtRtx, "float_type", lambda self, precision: "fp32")
    outcome = export(plan_for())
    (check,) = outcome.manifest.verification.failures
    assert check.name == "computes in the precision asked for"
    assert check.found == "matrix products: 15 in fp32"
    assert not (plan_for().repository / "tiny").exists()


@needs_no_gpu
def test_a_graph_with_wrong_logits_is_rejected(plan_for, monkeypatch):
    honest = pipeline.build_graph

    def dimmed(network, task, **changes):
        darker = dataclasses.replace(task, mean=tuple(mean + 0.1 for mean in task.mean))
        return honest(network, darker, **changes)

    monkeypatch.setattr(pipeline, "build_graph", dimmed)
    outcome = export(plan_for())
    assert outcome.manifest.verification.status == "failed"
    (check,) = outcome.manifest.verification.failures
    assert check.name == "ONNX graph in fp16, by ONNX Runtime"
    assert not (plan_for().repository / "tiny").exists()


def test_a_full_disk_publishes_nothing(plan_for, tmp_path):
    repository = plan_for().repository
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
    try:
        with pytest.raises(RepositoryError, match="cannot be written"):
            export(plan_for())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (repository / "tiny").exists()
    assert not list(tmp_path.glob(".repository-*"))
