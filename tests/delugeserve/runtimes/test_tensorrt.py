"""Plans that TensorRT-RTX really builds here; running them takes a GPU.

TensorRT itself does not install everywhere. Its backend is exercised with TensorRT-RTX in its
place, whose API is the same.
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

from delugeserve import runtimes as engines
from delugeserve.artifacts.manifest import read_manifest
from delugeserve.artifacts.records import Profile
from delugeserve.errors import (
    BuildError,
    MissingDeviceError,
    PlanError,
    RejectedError,
    RepositoryError,
    UnknownNameError,
    UsageError,
)
from delugeserve.networks.build import build_network
from delugeserve.networks.checkpoint import Checkpoint, save_checkpoint
from delugeserve.networks.inference import fold
from delugeserve.runtimes import BACKENDS, choose_backend
from delugeserve.runtimes.base import BuildOptions
from delugeserve.runtimes.plan_details import count_precisions
from delugeserve.runtimes.tensorrt import TensorRt, TensorRtRtx
from delugeserve.runtimes.tensorrt_engine import RuntimeLog
from delugeserve.system import hardware
from delugeserve.system.hardware import Gpu
from delugeserve.verification.verify import verify_version
from delugeserve.zoo import CIFAR10, ModelSpec
from delugeserve_export import pipeline
from delugeserve_export.graph import build_graph
from delugeserve_export.pipeline import export
from delugeserve_export.request import Request, settle

rtx = pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: delugeserve[tensorrt-rtx]")
needs_no_gpu = pytest.mark.skipif(bool(hardware.usable_gpus()), reason="this machine has a GPU")

TINY = ModelSpec("tiny", "cifar", (4, 6), (2, 2), CIFAR10)


class TensorRtOnRtx(TensorRt):
    """TensorRT's backend, with the library that installs and builds everywhere."""

    module = "tensorrt_rtx"
    builds_without_gpu = True


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
def build(graphs, tmp_path):
    def run(backend=None, graph="fp16", **options):
        return (backend or TensorRtRtx()).build(
            graphs.get(graph, graph), tmp_path, BuildOptions(**options)
        )

    return run


@pytest.fixture
def request_for(network, tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(Checkpoint(TINY, CIFAR10.class_names, network.state_dict()), path)
    request = Request(TINY, path, tmp_path / "repository", "tensorrt-rtx", "fp16", 16)
    return lambda **changes: dataclasses.replace(request, **changes)


def layers_of(plan):
    """The engine's layers and tensors, as its builder lists them."""
    return plan.with_name("layers.txt").read_text()


def details_of(plan):
    return TensorRtRtx().describe(plan)


@pytest.mark.parametrize(
    ("precision", "name"), [("fp32", "Float"), ("fp16", "Half"), ("bf16", "BFloat16")]
)
def test_the_engine_computes_in_the_types_of_its_graph(build, precision, name):
    plan = build(graph=precision, dump_layers=True)
    details = details_of(plan)
    assert details.precisions_of == "engine"
    assert details.precisions.keys() == {precision}
    # There are fifteen; the narrowest may have become sums within another layer.
    assert details.precisions[precision] in range(12, 16)
    assert TensorRtRtx().executed_precisions(plan, precision) == {"Convolution": details.precisions}
    types = set(re.findall(r"Datatype: (\w+)", layers_of(plan)))
    assert types == {name, "Float", "UInt8"}


def test_without_the_builders_report_the_network_is_counted(graphs):
    log = RuntimeLog(rtx)
    builder = rtx.Builder(log.logger)
    network = builder.create_network(0)
    assert rtx.OnnxParser(network, log.logger).parse(graphs["bf16"])
    assert count_precisions(rtx, network, "") == ({"bf16": 15}, "network")


def test_the_profile_is_the_batch_setting(build):
    plan = build(max_batch_size=24, optimal_batch_size=6, dump_layers=True)
    (image,) = re.findall(r"Name: image, IOMode: (.*)", layers_of(plan))
    assert image.startswith("Input, DataType: UInt8, Dimensions: [-1,32,32,3]")
    assert "MinShape: [1,32,32,3], OptShape: [6,32,32,3], MaxShape: [24,32,32,3]" in image
    outputs = r"Name: (\w+), IOMode: Output, DataType: (\w+), Dimensions: (\S+),"
    assert re.findall(outputs, layers_of(plan)) == [
        ("logits", "Float", "[-1,10]"),
        ("probabilities", "Float", "[-1,10]"),
    ]
    assert details_of(plan).profile == {
        "image": Profile((1, 32, 32, 3), (6, 32, 32, 3), (24, 32, 32, 3))
    }
    assert details_of(build(max_batch_size=24)).profile["image"].opt[0] == 16


# The header of a plan, as it was found: its size, the version, and a bit for each GPU.
def test_a_plan_holds_the_builders_bytes_and_no_others(build):
    plan = build().read_bytes()
    assert plan[:4] == b"vtrt"
    assert int.from_bytes(plan[16:24], "little") == len(plan)
    assert ".".join(map(str, plan[24:28])) == rtx.__version__


@pytest.mark.parametrize(
    ("chosen", "bits"), [((), 0b1111110), (("8.6",), 0b100), (("8.9", "12.0"), 0b11000)]
)
def test_a_plan_is_portable_or_for_the_gpus_asked_for(build, chosen, bits):
    plan = build(compute_capabilities=chosen)
    assert plan.read_bytes()[32] == bits
    assert details_of(plan).compute_capabilities == chosen
    assert details_of(plan).minimum_compute_capability == (None if chosen else "8.0")


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
    with pytest.raises(BuildError, match="refuses the graph at node 'odd one'"):
        build(graph=onnx.ModelProto.SerializeToString(model))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"compute_capabilities": ("8.7",)}, "Did you mean '8.9'"),
        ({"workspace": 0}, "at least 1 MiB"),
        ({"optimal_batch_size": 65}, "from 1 to 64, the maximum, and not 65"),
        ({"optimal_batch_size": 0}, "from 1 to 64"),
    ],
)
def test_bad_values_are_refused_before_any_work(build, tmp_path, options, said):
    with pytest.raises(UsageError, match=said):
        BACKENDS["tensorrt_rtx"].check_options(BuildOptions(**options))
    with pytest.raises(UsageError, match=said):
        build(**options)
    assert not list(tmp_path.iterdir())


@needs_no_gpu
@pytest.mark.parametrize("options", [{"workspace": 1}, {"strip_weights": True}, {"refit": True}])
def test_what_cannot_be_built_says_why(build, tmp_path, options):
    with pytest.raises(BuildError, match=r"cannot build this network: .*Myelin") as caught:
        build(**options)
    assert "leave out options such as --strip-weights" in caught.value.remedy
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("precision", "refused"), [("fp16", True), ("int8", True), ("bf16", False)]
)
def test_sums_that_overflow_are_refused(request_for, precision, refused):
    request = request_for(precision=precision, sum_form="horner")
    if refused:
        with pytest.raises(
            UsageError, match=r"sums in fp16, in which Horner's scheme over.*form mul"
        ):
            settle(request)
    else:
        assert settle(request).sum_form == "horner"


@pytest.mark.parametrize(
    ("backend", "options", "flag"),
    [
        ("onnxruntime", {"refit": True}, "--refit"),
        ("openvino", {"compute_capabilities": ("8.6",)}, "--compute-capability"),
        ("tensorrt_rtx", {"version_compatible": True}, "--version-compatible"),
        ("tensorrt_rtx", {"optimization_level": 0}, "--optimization-level"),
        ("tensorrt", {"compute_capabilities": ("8.6",)}, "--compute-capability"),
    ],
)
def test_options_without_effect_are_refused(backend, options, flag):
    with pytest.raises(UsageError, match=f"has no use for {flag}"):
        BACKENDS[backend].check_options(BuildOptions(max_batch_size=8, **options))


def test_nothing_is_collected_while_a_runtime_builds(build, monkeypatch):
    """It calls the logger with a lock held, which the end of a dead builder would wait for."""
    seen, builder = [], rtx.Builder
    monkeypatch.setattr(rtx, "Builder", lambda log: seen.append(gc.isenabled()) or builder(log))
    build()
    assert seen == [False]
    assert gc.isenabled()


@pytest.mark.filterwarnings("ignore:.*[Tt]iming cache:DeprecationWarning")
class TestTensorRt:
    def test_it_builds_in_the_same_way(self, build, tmp_path):
        cache = tmp_path / "caches" / "timing"
        for _ in range(2):
            plan = build(
                TensorRtOnRtx(),
                optimization_level=1,
                hardware_compatibility="ampere+",
                timing_cache=cache,
            )
        details = TensorRtOnRtx().describe(plan)
        assert details.precisions.keys() == {"fp16"}
        assert details.minimum_compute_capability == "8.0"
        assert details.options == {
            "optimization_level": 1,
            "hardware_compatibility": "ampere+",
        }
        assert [path.name for path in cache.parent.iterdir()] == ["timing"]

    def test_a_plan_is_for_the_gpu_that_built_it(self, build, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr(
            hardware, "usable_gpus", lambda: (Gpu("NVIDIA L4", "550.54", "8.9", "23034 MiB"),)
        )
        monkeypatch.setattr(TensorRtOnRtx, "builds_without_gpu", False)
        details = details_of(build(TensorRtOnRtx(), graph="fp32"))
        assert details.compute_capabilities == ("8.9",)
        assert details.built_on == "NVIDIA L4"
        assert (tmp_path / "cache" / "delugeserve" / "tensorrt.timing-cache").is_file()

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"optimization_level": 6}, "no optimisation level 6"),
            ({"hardware_compatibility": "ampere"}, r"Did you mean 'ampere\+'"),
        ],
    )
    def test_bad_values(self, options, said):
        with pytest.raises(UsageError, match=said):
            TensorRtOnRtx().check_options(BuildOptions(**options))

    @needs_no_gpu
    def test_it_builds_on_a_gpu_only(self, build, monkeypatch):
        monkeypatch.setattr(TensorRt, "module", "tensorrt_rtx")
        with pytest.raises(MissingDeviceError, match="TensorRT builds on an NVIDIA GPU"):
            build(TensorRt())
        with pytest.raises(MissingDeviceError, match="TensorRT builds on an NVIDIA GPU"):
            TensorRt().check_options(BuildOptions())


@needs_no_gpu
def test_a_plan_does_not_load_without_a_gpu(build):
    with pytest.raises(MissingDeviceError, match="runs on an NVIDIA GPU, and this machine has non"):
        TensorRtRtx().load(build(), "fp16")


@pytest.mark.parametrize(
    ("made_for", "capability", "said"),
    [(("12.0",), "8.9", "capability 12.0, and NVIDIA X has 8.9"), ((), "7.5", "8.0 or later")],
)
def test_a_plan_for_other_gpus_does_not_load(build, monkeypatch, made_for, capability, said):
    plan = build(compute_capabilities=made_for)
    monkeypatch.setattr(
        hardware, "usable_gpus", lambda: (Gpu("NVIDIA X", "550.54", capability, "23034 MiB"),)
    )
    with pytest.raises(MissingDeviceError, match=said):
        TensorRtRtx().load(plan, "fp16")


def test_the_first_gpu_is_cudas_own_and_another_that_fits_is_named(build, monkeypatch):
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    plan = build(compute_capabilities=("8.9",))
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    first, second = (
        Gpu("NVIDIA T4", "550.54", "7.5", "1 MiB"),
        Gpu("NVIDIA L4", "550.54", "8.9", "1 MiB", 1),
    )
    monkeypatch.setattr(hardware, "usable_gpus", lambda: (first, second))
    monkeypatch.delenv("CUDA_DEVICE_ORDER")
    with pytest.raises(MissingDeviceError, match=r"NVIDIA T4 has 7\.5") as caught:
        TensorRtRtx().load(plan, "fp16")
    assert caught.value.remedy == "Let it be the first: CUDA_VISIBLE_DEVICES=1"
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


@needs_no_gpu
def test_what_the_driver_says_is_passed_on(build, monkeypatch):
    pytest.importorskip("cuda.bindings.runtime")
    monkeypatch.setattr(
        hardware, "usable_gpus", lambda: (Gpu("NVIDIA L4", "550.54", "8.9", "23034 MiB"),)
    )
    with pytest.raises(PlanError, match=r"cannot load .*model.plan: CUDA: "):
        TensorRtRtx().load(build(), "fp16")


@needs_no_gpu
def test_an_export_without_a_gpu_is_built_and_not_run(request_for):
    progress = pipeline.Progress()
    planned = settle(request_for(precision="bf16")).stages
    done = export(request_for(precision="bf16"), progress)
    assert tuple(progress.seconds) == planned
    manifest = read_manifest(done.folder)
    verification = manifest.verification
    assert verification.status == "built, not run"
    assert verification.comparisons == ()
    here, in_engine, in_graph = verification.checks
    assert "TensorRT-RTX runs on an NVIDIA GPU, and this machine has none" in here.found
    assert in_engine.found == "matrix products: 15 in bf16"
    assert in_graph.name == "its ONNX graph in bf16, by OpenVINO"
    assert manifest.engine.version == rtx.__version__
    assert manifest.engine.profile["image"].max == (16, 32, 32, 3)
    assert manifest.speed == {}
    assert manifest.files.keys() == {
        "model.plan", "engine.json", "evidence.npz", "labels.txt",
    }  # fmt: skip
    config = (done.folder.parent / "config.pbtxt").read_text()
    assert 'backend: "tensorrt_rtx"' in config
    assert "kind: KIND_GPU" in config


@needs_no_gpu
def test_a_plan_is_verified_at_the_batch_that_it_was_tuned_for(request_for, monkeypatch):
    request = request_for(options=BuildOptions(optimal_batch_size=12))
    assert settle(request).sizes == (1, 7, 12, 16)
    folder = export(request).folder
    compared = []

    def load(self, artefact, precision):
        def infer(images):
            compared.append(len(images))
            return np.zeros((len(images), 10), np.float32), np.full(
                (len(images), 10), np.float32(0.1)
            )

        return infer

    monkeypatch.setattr(TensorRtRtx, "load", load)
    with pytest.raises(RejectedError):
        verify_version(folder)
    assert {1, 7, 12, 16} == set(compared)


@needs_no_gpu
def test_a_plan_that_the_gpu_here_refuses_is_built_and_not_run(request_for, monkeypatch):
    pytest.importorskip("cuda.bindings.runtime")
    monkeypatch.setattr(
        hardware, "usable_gpus", lambda: (Gpu("NVIDIA L4", "550.54", "8.9", "23034 MiB"),)
    )
    verification = export(request_for()).manifest.verification
    assert verification.status == "built, not run"
    reason = verification.checks[0].found
    assert reason.startswith(f"TensorRT-RTX {rtx.__version__} cannot load model.plan: CUDA: ")


def test_fp32_sold_as_fp16_is_noticed(request_for, monkeypatch):
    monkeypatch.setattr(TensorRtRtx, "float_type", lambda self, precision: "fp32")
    with pytest.raises(
        RejectedError, match=r"'computes in the precision.* 15 in fp32, where all in"
    ):
        export(request_for())
    assert not (request_for().repository / "tiny").exists()


@needs_no_gpu
def test_a_graph_that_strays_is_not_published_either(request_for, monkeypatch):
    honest = pipeline.build_graph

    def dimmed(network, dataset, **changes):
        darker = dataclasses.replace(dataset, mean=tuple(mean + 0.1 for mean in dataset.mean))
        return honest(network, darker, **changes)

    monkeypatch.setattr(pipeline, "build_graph", dimmed)
    with pytest.raises(RejectedError, match="fails 'its ONNX graph in fp16, by ONNX Runtime'"):
        export(request_for())
    assert not (request_for().repository / "tiny").exists()


def test_a_full_disk_publishes_nothing(request_for, tmp_path):
    repository = request_for().repository
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
    try:
        with pytest.raises(RepositoryError, match="cannot be written"):
            export(request_for())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (repository / "tiny").exists()
    assert not list(tmp_path.glob(".repository-*"))


@pytest.mark.parametrize(
    ("capability", "installed", "taken"),
    [
        ("9.0", {"tensorrt", "tensorrt_rtx", "openvino"}, "tensorrt"),
        ("8.9", {"tensorrt_rtx", "openvino"}, "tensorrt_rtx"),
        ("9.0", {"tensorrt_rtx", "openvino"}, "openvino"),
        ("8.9", {"openvino"}, "openvino"),
    ],
)
def test_auto_takes_the_gpu_where_it_can(monkeypatch, capability, installed, taken):
    monkeypatch.setattr(
        hardware, "usable_gpus", lambda: (Gpu("NVIDIA X", "550.54", capability, "23034 MiB"),)
    )
    monkeypatch.setattr(engines, "_installed", lambda backend: backend.name in installed)
    backend, reason = choose_backend("auto")
    assert backend.name == taken
    assert ("NVIDIA X" in reason) == (taken != "openvino")


def test_both_spellings_of_a_name_are_known():
    assert choose_backend("tensorrt_rtx")[0] is choose_backend("tensorrt-rtx")[0]
    with pytest.raises(UnknownNameError, match="Did you mean 'tensorrt-rtx'"):
        choose_backend("tensorrt-rt")
