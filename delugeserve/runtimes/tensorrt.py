"""TensorRT and TensorRT-RTX: the artefact is a plan, ``model.plan``, for NVIDIA GPUs.

The two share one Python API. Both build strongly typed networks here, which compute in the types of
the graph: a flag of TensorRT 10, and the only way of TensorRT 11 and TensorRT-RTX.

A plan is good for one version of its runtime, and for some GPUs. The builder's facts about it are
written next to it and into the manifest, and compared with this machine before it is loaded.
"""

from __future__ import annotations

import collections
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from delugeserve.artifacts.interface import LOGITS, PROBABILITIES, Infer, Outputs, Precision
from delugeserve.artifacts.manifest import find_manifest
from delugeserve.artifacts.records import PlanDetails, Profile
from delugeserve.artifacts.remedies import export_command
from delugeserve.artifacts.repository import StoredModel
from delugeserve.artifacts.typed_json import from_json, to_json
from delugeserve.errors import BuildError, MissingDeviceError, PlanError, UsageError
from delugeserve.runtimes import tensorrt_engine
from delugeserve.runtimes.base import DEFAULTS, Backend, BuildOptions, Preference
from delugeserve.runtimes.tensorrt_engine import Engine, RuntimeLog, collection_paused
from delugeserve.system import hardware
from delugeserve.system.hardware import Gpu
from delugeserve.system.imports import require

PLAN = "model.plan"
DETAILS = "engine.json"

_GPU = "an NVIDIA GPU"
# Ampere to Blackwell, from the support matrix of TensorRT-RTX 1.5 to 1.7:
# https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/getting-started/support-matrix.html
_RTX = ("8.6", "8.9", "12.0", "12.1")
# Names of data types in an engine's layers and in a parsed network.
_PRECISIONS: Mapping[str, Precision] = {
    "float": "fp32",
    "half": "fp16",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "int8": "int8",
}
# A layer that multiplies matrices, with the type of its first input.
_PRODUCT = re.compile(r"LayerType: (?:correlation|gemm|runtime_fusion), .*?Datatype: (\w+)")


class _PlanBackend(Backend):
    """What the two runtimes share, which is nearly everything."""

    sum_form = "mul"
    precisions = ("fp16", "bf16", "fp32", "int8")
    typed_graph = True
    instance_kind = "KIND_GPU"
    bindings = ("cuda.bindings",)
    support_files = (Path(tensorrt_engine.__file__),)
    options = frozenset({"optimal_batch_size"})
    builds_without_gpu: ClassVar[bool]
    containers: ClassVar[str] = ""  # address of a page that lists containers with the runtime

    def preference(self) -> Preference | None:
        """Prefer it on a GPU that it supports."""
        gpus = hardware.usable_gpus()
        if not gpus or not self._supports(gpus[0]):
            return None
        return Preference(20.0, f"this machine has the GPU {gpus[0].name}")

    def best_precision(self) -> Precision:
        """Return fp16, which every supported GPU computes in natively."""
        return "fp16"

    def missing_to_build(self) -> str | None:
        """Return the GPU, if one is needed and there is none."""
        return None if self.builds_without_gpu else self.missing_to_run()

    def missing_to_run(self) -> str | None:
        """Return the GPU, if there is none."""
        return None if hardware.usable_gpus() else _GPU

    def check_options(self, options: BuildOptions) -> None:
        """Check build options, before any work.

        Raises:
            MissingDeviceError: building needs a GPU, and there is none.
            UsageError: an option has a value that the builder would refuse.
        """
        super().check_options(options)
        hardware.order_gpus()  # before anything starts CUDA, such as PyTorch
        if self.missing_to_build():
            raise self._missing_device("builds")
        largest, tuned = options.max_batch_size, options.tuned_batch_size
        if not 1 <= tuned <= largest:
            raise UsageError(
                f"--optimal-batch-size must be from 1 to {largest}, the maximum batch size, "
                f"but is {tuned}.",
                f"Use --optimal-batch-size {largest}.",
            )

    @collection_paused()
    def build(self, model: bytes, folder: Path, options: BuildOptions = DEFAULTS) -> Path:
        """Write ``model.plan``, and ``engine.json`` with the facts about it.

        Raises:
            BuildError: the runtime refuses the graph, or cannot build it.
            MissingDeviceError: building needs a GPU, and there is none.
            UsageError: an option has a value that the builder would refuse.
        """
        runtime = require(self.module, self.extra)
        self.check_options(options)
        log = RuntimeLog(runtime)
        builder: Any = runtime.Builder(log.logger)
        network = self._parse(runtime, builder, model, log)
        config = builder.create_builder_config()
        profile = _add_profile(builder, network, config, options)
        # TF32 would multiply fp32 numbers with ten bits of fraction.
        config.clear_flag(runtime.BuilderFlag.TF32)
        config.profiling_verbosity = runtime.ProfilingVerbosity.DETAILED
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BuildError(
                f"{self.title} cannot build this network: {log.reason()}",
                "Nothing was published. Try another --precision or --backend.",
            )
        path = folder / PLAN
        path.write_bytes(plan)
        precisions, counted = count_precisions(runtime, network, log.layers)
        gpus = hardware.usable_gpus()
        capabilities, minimum = self._targets(gpus)
        details = PlanDetails(
            runtime=self.module,
            version=runtime.__version__,
            compute_capabilities=capabilities,
            minimum_compute_capability=minimum,
            built_on=gpus[0].name if gpus and not self.builds_without_gpu else None,
            profile=profile,
            precisions=precisions,
            precisions_of=counted,
        )
        text = json.dumps(to_json(details), indent=2)
        (folder / DETAILS).write_text(text + "\n", encoding="utf-8")
        return path

    def describe(self, artefact: Path) -> PlanDetails:
        """Read ``engine.json``."""
        text = artefact.with_name(DETAILS).read_text(encoding="utf-8")
        return from_json(PlanDetails, json.loads(text))

    def executed_precisions(
        self, artefact: Path, precision: Precision
    ) -> Mapping[str, Mapping[Precision, int]]:
        """Return the builder's count of the engine's layers."""
        return {"Convolution": self.describe(artefact).precisions}

    def load(self, artefact: Path, precision: Precision) -> Infer:
        """Load ``model.plan`` onto the first GPU that CUDA may use.

        Raises:
        XX
        """
        hardware.order_gpus()
        runtime = require(self.module, self.extra)
        gpus = hardware.usable_gpus()
        if not gpus:
            raise self._missing_device("runs")
        plan = self.describe(artefact)
        capabilities, minimum = plan.compute_capabilities, plan.minimum_compute_capability
        if not gpus[0].is_among(capabilities, minimum):
            required = hardware.describe_capabilities(capabilities, minimum)
            raise PlanError(
                f"The plan is for GPUs of compute capability {required}, but {gpus[0].name} has "
                f"{gpus[0].compute_capability}.",
                _choose_gpus([gpu for gpu in gpus if gpu.is_among(capabilities, minimum)])
                or "Use a machine with such a GPU, or export the model on this one.",
                required=required,
                found=gpus[0].compute_capability,
            )
        for module in self.bindings:
            require(module, self.extra)
        try:
            engine = Engine(runtime, artefact)
        except RuntimeError as error:
            same = _numbers(runtime.__version__) == _numbers(plan.version)
            raise PlanError(
                f"{self.title} {runtime.__version__} cannot load {artefact}: {error}",
                "Update the NVIDIA driver (see nvidia-smi), or choose another --backend."
                if same
                else f"{self._who_can_load(plan.version)}, or export the model on this machine.",
                required=plan.version,
                found=runtime.__version__,
            ) from error

        def infer(images: NDArray[np.uint8]) -> Outputs:
            outputs = engine.run(images, [LOGITS, PROBABILITIES])
            return outputs[LOGITS], outputs[PROBABILITIES]

        return infer

    def check_loadable(self, model: StoredModel, *, native: bool = False) -> None:
        """Check, before a server is started, that it can load a model's plan.

        What is unknown is left to the server: a plan without a manifest of ours, and the version of
        a native backend.

        Raises:
            MissingDeviceError: this machine has no GPU.
            PlanError: the plan is for another GPU, or another version of the runtime.
        """
        manifest = find_manifest(model.folder, model.version)
        gpus = hardware.usable_gpus()
        if not gpus:
            raise MissingDeviceError(
                f"Model '{model.name}' is a {self.title} plan, which runs on an NVIDIA GPU, but "
                "this machine has none.",
                "Serve it on a machine with a GPU, or export it for this one: "
                f"{export_command(model.folder, manifest, 'onnxruntime')}",
            )
        plan = manifest.engine if manifest else None
        if plan is None:
            return
        again = export_command(model.folder, manifest, self.name)
        capabilities, minimum = plan.compute_capabilities, plan.minimum_compute_capability
        others = [gpu for gpu in gpus if not gpu.is_among(capabilities, minimum)]
        if others:  # Triton starts an instance on every GPU that it sees
            fitting = [gpu for gpu in gpus if gpu not in others]
            required = hardware.describe_capabilities(capabilities, minimum)
            found = ", ".join(f"{gpu.name} ({gpu.compute_capability})" for gpu in others)
            raise PlanError(
                f"Model '{model.name}' is a {self.title} plan for GPUs of compute capability "
                f"{required}, but this machine has {found}.",
                _choose_gpus(fitting, " delugeserve serve ...")
                or f"Serve it on such a GPU, or export it on this machine: {again}",
                required=required,
                found=found,
            )
        here = _native_version() if native else self.installed_version()
        if here and _numbers(here) != _numbers(plan.version):
            raise PlanError(
                f"Model '{model.name}' was built by {self.title} {plan.version}, but this "
                f"server has {self.title} {here}, which cannot load it.",
                f"{self._who_can_load(plan.version)}, or export it on this machine: {again}",
                required=plan.version,
                found=here,
            )

    def _who_can_load(self, version: str) -> str:
        package = f"pip install '{self.distributions[0]}=={version}'"
        where = f", or use a container that has it ({self.containers})" if self.containers else ""
        return f"Install {self.title} {version} ({package}){where}"

    def _missing_device(self, verb: str) -> MissingDeviceError:
        return MissingDeviceError(
            f"{self.title} {verb} on an NVIDIA GPU, but this machine has none.",
            "Use a machine with a GPU, or choose another --backend.",
        )

    def _parse(self, runtime: ModuleType, builder: Any, model: bytes, log: RuntimeLog) -> Any:
        # Without this flag TensorRT 10 chooses types itself; later versions have no such flag.
        flag = getattr(runtime.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        network = builder.create_network(0 if flag is None else 1 << int(flag))
        parser = runtime.OnnxParser(network, log.logger)
        if not parser.parse(model):
            error = parser.get_error(0)
            raise BuildError(
                f"{self.title} refuses the graph at node '{error.node_name()}': {error.desc()}",
                "Nothing was published. Try another --precision or --backend.",
                node=error.node_name(),
            )
        return network

    def _supports(self, gpu: Gpu) -> bool:
        raise NotImplementedError

    def _targets(self, gpus: Sequence[Gpu]) -> tuple[tuple[str, ...], str | None]:
        """Return the compute capabilities that a plan is built for, or the minimum."""
        raise NotImplementedError


class TensorRt(_PlanBackend):
    """TensorRT 10 and 11: builds and times kernels on the GPU that the plan is for."""

    name = "tensorrt"
    title = "TensorRT"
    module = "tensorrt"
    distributions = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
    extra = serving_extra = "tensorrt"
    offers_all_outputs = True
    containers = "https://docs.nvidia.com/deeplearning/frameworks/support-matrix/index.html"
    builds_without_gpu = False

    def _supports(self, gpu: Gpu) -> bool:
        return True

    def _targets(self, gpus: Sequence[Gpu]) -> tuple[tuple[str, ...], str | None]:
        return tuple(gpu.compute_capability for gpu in gpus[:1]), None


class TensorRtRtx(_PlanBackend):
    """TensorRT-RTX: builds anywhere, and finishes the kernels on the GPU that loads the plan."""

    name = "tensorrt_rtx"
    title = "TensorRT-RTX"
    module = "tensorrt_rtx"
    distributions = ("tensorrt-rtx",)
    extra = serving_extra = "tensorrt-rtx"
    builds_without_gpu = True

    def _supports(self, gpu: Gpu) -> bool:
        return gpu.compute_capability in _RTX

    def _targets(self, gpus: Sequence[Gpu]) -> tuple[tuple[str, ...], str | None]:
        # Portable by default:
        # https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/cpu-engines.html
        return (), "8.0"


def count_precisions(
    runtime: ModuleType, network: Any, layers: str
) -> tuple[dict[Precision, int], Literal["engine", "network"]]:
    """Count the layers that multiply matrices, by precision.

    Args:
        runtime: the module that built the engine.
        network: the network that was built.
        layers: the builder's list of the engine's layers; empty if it gave none.

    Returns:
        The number of layers in each precision, and which layers were counted: the engine's, or the
        network's where the builder did not list the engine's.
    """
    if in_engine := _count(_PRODUCT.findall(layers)):
        return in_engine, "engine"
    products = {runtime.LayerType.CONVOLUTION, runtime.LayerType.MATRIX_MULTIPLY}
    in_network = (network.get_layer(index) for index in range(network.num_layers))
    return (
        _count(layer.get_input(0).dtype.name for layer in in_network if layer.type in products),
        "network",
    )


def _count(types: Iterable[str]) -> dict[Precision, int]:
    known = (_PRECISIONS[name.lower()] for name in types if name.lower() in _PRECISIONS)
    return dict(collections.Counter(known))


def _add_profile(
    builder: Any, network: Any, config: Any, options: BuildOptions
) -> dict[str, Profile]:
    """Set the batches that the engine must take: from one image to the largest batch."""
    profile = builder.create_optimization_profile()
    shapes = {}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        image = tuple(tensor.shape)[1:]
        shape = Profile(
            min=(1, *image),
            opt=(options.tuned_batch_size, *image),
            max=(options.max_batch_size, *image),
        )
        profile.set_shape(tensor.name, shape.min, shape.opt, shape.max)
        shapes[tensor.name] = shape
    config.add_optimization_profile(profile)
    return shapes


def _choose_gpus(gpus: Sequence[Gpu], command: str = "") -> str:
    """Return the remedy that shows a program only some GPUs; empty if there are none."""
    indices = ",".join(str(gpu.index) for gpu in gpus)
    return f"Use only the GPU that fits: CUDA_VISIBLE_DEVICES={indices}{command}" if gpus else ""


def _native_version() -> str | None:
    """Return the TensorRT version that NVIDIA's containers state, such as ``10.13.3.9``."""
    return os.environ.get("TRT_VERSION", "").partition("+")[0] or None


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers at the start of a version; a suffix such as ``.post1`` is ignored."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in match[0].split(".")) if match else ()
