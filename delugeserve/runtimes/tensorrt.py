"""TensorRT and TensorRT-RTX: the artefact is a plan, ``model.plan``, for NVIDIA GPUs.

Both have one Python API, and both build here in one way: strongly typed, that is, in the types the
graph is written in. TensorRT 10 has to be told so, TensorRT 11 and TensorRT-RTX know nothing else.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from delugeserve.artifacts.interface import (
    LOGITS,
    PROBABILITIES,
    Infer,
    Outputs,
    Precision,
    optimal_batch_size,
)
from delugeserve.artifacts.records import PlanDetails, Profile
from delugeserve.artifacts.typed_json import from_json, to_json
from delugeserve.errors import (
    BuildError,
    MissingDeviceError,
    PlanError,
    UnknownNameError,
    UsageError,
    require,
)
from delugeserve.runtimes.base import DEFAULTS, Backend, BuildOptions
from delugeserve.runtimes.plan_details import count_precisions
from delugeserve.runtimes.tensorrt_engine import (
    WEIGHTS,
    Engine,
    RuntimeLog,
    cache_folder,
    collection_paused,
    make_runtime,
    write_cache,
)
from delugeserve.system import hardware

PLAN = "model.plan"
DETAILS = "engine.json"
LAYERS = "layers.txt"

_MIB = 1 << 20
# Ampere to Blackwell, in the support matrix of TensorRT-RTX 1.5 to 1.7:
# https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/getting-started/support-matrix.html
_RTX = ("8.6", "8.9", "12.0", "12.1")


class _PlanBackend(Backend):
    """What the two runtimes have in common, which is nearly everything."""

    sum_form = "mul"
    precisions = ("fp16", "bf16", "fp32", "int8")
    typed_graph = True
    instance_kind = "KIND_GPU"
    bindings = ("cuda.bindings",)
    builds_without_gpu: ClassVar[bool]

    def best_precision(self) -> Precision:
        """fp16, which every GPU that they support computes natively."""
        return "fp16"

    def builds_here(self) -> bool:
        """Whether there is a GPU, or none is needed."""
        return self.builds_without_gpu or self.runs_here()

    def runs_here(self) -> bool:
        """Whether there is a GPU."""
        return bool(hardware.usable_gpus())

    def check_options(self, options: BuildOptions) -> None:
        """Refuse what the builder would refuse, before the work that comes first.

        Raises:
            MissingDeviceError: it needs a GPU to build, and there is none.
            UsageError: an option has a value that the runtime does not know.
        """
        super().check_options(options)
        hardware.order_gpus()  # before anything starts CUDA, the network's own inference included
        if not self.builds_here():
            raise self._missing_device("builds on")
        if options.workspace is not None and options.workspace < 1:
            raise UsageError("The workspace is at least 1 MiB.", "Say --workspace 1024.")
        largest, best = options.max_batch_size, _best_batch(options)
        if not 1 <= best <= largest:
            raise UsageError(
                f"The batch to tune for is from 1 to {largest}, the maximum, and not {best}.",
                f"Say --optimal-batch-size {largest}.",
            )

    def triton_parameters(self, precision: Precision) -> Mapping[str, str]:
        """None: everything is in the plan."""
        return {}

    @collection_paused()
    def build(self, model: bytes, folder: Path, options: BuildOptions = DEFAULTS) -> Path:
        """Write ``model.plan``, and beside it ``engine.json``, which says what it is good for.

        Without weights in it, also the ``model.onnx`` that holds them.

        Raises:
            BuildError: the runtime refuses the graph, or cannot build it.
            MissingDeviceError: it needs a GPU to build, and there is none.
            UsageError: an option has a value that the runtime does not know.
        """
        runtime = require(self.module, self.extra)
        self.check_options(options)
        gpus = hardware.usable_gpus()
        log = RuntimeLog(runtime)
        builder: Any = runtime.Builder(log.logger)
        network = self._parse(runtime, builder, model, log)
        config = builder.create_builder_config()
        profile = _add_profile(builder, network, config, options)
        self._configure(runtime, config, options)
        cache = self._attach_timing_cache(config, options)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BuildError(
                f"{self.title} cannot build this network: {log.reason()}",
                "Nothing was published; build on a machine with an NVIDIA GPU, or leave out "
                "options such as --strip-weights, --refit and --workspace."
                if not gpus
                else "Nothing was published; try another --precision or --backend.",
            )
        if cache:
            write_cache(cache, bytes(config.get_timing_cache().serialize()))
        path = folder / PLAN
        path.write_bytes(plan)
        if options.strip_weights:
            (folder / WEIGHTS).write_bytes(model)
        if options.dump_layers:
            (folder / LAYERS).write_text(self._layers(runtime, plan, log) + "\n", encoding="utf-8")
        precisions, told_by = count_precisions(runtime, network, log.layers)
        details = PlanDetails(
            runtime=self.module,
            version=runtime.__version__,
            version_compatible=options.version_compatible,
            built_on=gpus[0].name if gpus and not self.builds_without_gpu else None,
            profile=profile,
            precisions=precisions,
            precisions_of=told_by,
            options=_stated(options),
            **self._targets(options, gpus),
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
        """What the builder told of the engine's layers."""
        return {"Convolution": self.describe(artefact).precisions}

    def load(self, artefact: Path, precision: Precision) -> Infer:
        """Load ``model.plan`` onto the first GPU that CUDA may use.

        Raises:
            MissingDeviceError: there is no GPU, or the plan is for others.
            PlanError: the plan is not for this version of the runtime.
        """
        hardware.order_gpus()
        runtime = require(self.module, self.extra)
        gpus = hardware.usable_gpus()
        if not gpus:
            raise self._missing_device("runs on")
        made_for = self.describe(artefact)
        exact, least = made_for.compute_capabilities, made_for.minimum_compute_capability
        if not gpus[0].is_among(exact, least):
            others = [gpu for gpu in gpus if gpu.is_among(exact, least)]
            raise MissingDeviceError(
                f"The plan is for GPUs of compute capability "
                f"{hardware.name_capabilities(exact, least)}, and {gpus[0].name} has "
                f"{gpus[0].compute_capability}.",
                f"Let it be the first: CUDA_VISIBLE_DEVICES={others[0].index}"
                if others
                else "Go to a machine with such a GPU, or export for this one.",
            )
        for module in self.bindings:
            require(module, self.extra)
        try:
            engine = Engine(runtime, artefact)
        except RuntimeError as error:
            raise PlanError(
                f"{self.title} {runtime.__version__} cannot load {artefact}: {error}",
                "Export it again on this machine.",
            ) from error

        def infer(images: NDArray[np.uint8]) -> Outputs:
            outputs = engine.run(images, [LOGITS, PROBABILITIES])
            return outputs[LOGITS], outputs[PROBABILITIES]

        return infer

    def _missing_device(self, does: str) -> MissingDeviceError:
        return MissingDeviceError(
            f"{self.title} {does} an NVIDIA GPU, and this machine has none.",
            "Go to a machine with one, or choose another --backend.",
        )

    def _parse(self, runtime: ModuleType, builder: Any, model: bytes, log: RuntimeLog) -> Any:
        # TensorRT 10 is strongly typed only if told so; later there is no other way, nor this flag.
        flag = getattr(runtime.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        network = builder.create_network(0 if flag is None else 1 << int(flag))
        parser = runtime.OnnxParser(network, log.logger)
        if not parser.parse(model):
            error = parser.get_error(0)
            raise BuildError(
                f"{self.title} refuses the graph at node '{error.node_name()}': {error.desc()}",
                "Nothing was published; try another --precision or --backend.",
            )
        return network

    def _configure(self, runtime: ModuleType, config: Any, options: BuildOptions) -> None:
        flags = runtime.BuilderFlag
        # Types alone decide: TF32 would multiply what is called fp32 with ten bits of fraction.
        config.clear_flag(flags.TF32)
        config.profiling_verbosity = runtime.ProfilingVerbosity.DETAILED
        if options.strip_weights:
            config.set_flag(flags.STRIP_PLAN)
        if options.refit:
            config.set_flag(flags.REFIT)
        if options.workspace is not None:
            config.set_memory_pool_limit(runtime.MemoryPoolType.WORKSPACE, options.workspace * _MIB)

    def _attach_timing_cache(self, config: Any, options: BuildOptions) -> Path | None:
        """Let the builder use and extend the timings of earlier builds; None if it has none."""
        return None

    def _layers(self, runtime: ModuleType, plan: bytes, log: RuntimeLog) -> str:
        """One line for each of the engine's layers."""
        raise NotImplementedError

    def _targets(self, options: BuildOptions, gpus: Sequence[hardware.Gpu]) -> dict[str, Any]:
        """The GPUs that can load the plan."""
        raise NotImplementedError


class TensorRt(_PlanBackend):
    """TensorRT 10 and 11. It times variants of every layer, so it builds where it will run."""

    name = "tensorrt"
    title = "TensorRT"
    module = "tensorrt"
    extra = "tensorrt"
    builds_without_gpu = False
    options = frozenset(
        {
            "optimal_batch_size",
            "workspace",
            "optimization_level",
            "hardware_compatibility",
            "version_compatible",
            "strip_weights",
            "refit",
            "timing_cache",
            "dump_layers",
        }
    )
    _compatibility: ClassVar[Mapping[str, str]] = {
        "ampere+": "AMPERE_PLUS",
        "same-compute-capability": "SAME_COMPUTE_CAPABILITY",
    }

    def suits(self, gpu: hardware.Gpu) -> bool:
        """Every NVIDIA GPU that has a current driver."""
        return True

    def check_options(self, options: BuildOptions) -> None:
        """See the base class."""
        super().check_options(options)
        level, wanted = options.optimization_level, options.hardware_compatibility
        if level is not None and not 0 <= level <= 5:
            raise UsageError(
                f"There is no optimisation level {level}.", "Say --optimization-level 0 to 5."
            )
        if wanted is not None and wanted not in self._compatibility:
            raise UnknownNameError("hardware compatibility", wanted, self._compatibility)

    def _configure(self, runtime: ModuleType, config: Any, options: BuildOptions) -> None:
        super()._configure(runtime, config, options)
        if options.version_compatible:
            config.set_flag(runtime.BuilderFlag.VERSION_COMPATIBLE)
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if wanted := options.hardware_compatibility:
            config.hardware_compatibility_level = getattr(
                runtime.HardwareCompatibilityLevel, self._compatibility[wanted]
            )

    def _attach_timing_cache(self, config: Any, options: BuildOptions) -> Path:
        path = options.timing_cache or cache_folder() / "tensorrt.timing-cache"
        content = path.read_bytes() if path.is_file() else b""
        # Timings of another GPU or version are refused, and a new cache begins.
        if not config.set_timing_cache(config.create_timing_cache(content), False):
            config.set_timing_cache(config.create_timing_cache(b""), False)
        return path

    def _layers(self, runtime: ModuleType, plan: bytes, log: RuntimeLog) -> str:
        engine = make_runtime(runtime, log).deserialize_cuda_engine(plan)
        if engine is None:
            return log.layers
        inspector = engine.create_engine_inspector()
        text: str = inspector.get_engine_information(runtime.LayerInformationFormat.ONELINE)
        return text.strip()

    def _targets(self, options: BuildOptions, gpus: Sequence[hardware.Gpu]) -> dict[str, Any]:
        everywhere = options.hardware_compatibility == "ampere+"
        return {
            "compute_capabilities": tuple(
                gpu.compute_capability for gpu in gpus[:1] if not everywhere
            ),
            "minimum_compute_capability": "8.0" if everywhere else None,
        }


class TensorRtRtx(_PlanBackend):
    """TensorRT-RTX: builds anywhere, and finishes the kernels on the GPU that loads the plan."""

    name = "tensorrt_rtx"
    title = "TensorRT-RTX"
    module = "tensorrt_rtx"
    extra = "tensorrt-rtx"
    builds_without_gpu = True
    options = frozenset(
        {
            "optimal_batch_size",
            "workspace",
            "compute_capabilities",
            "strip_weights",
            "refit",
            "dump_layers",
        }
    )

    def suits(self, gpu: hardware.Gpu) -> bool:
        """The RTX GPUs of its support matrix."""
        return gpu.compute_capability in _RTX

    def check_options(self, options: BuildOptions) -> None:
        """See the base class."""
        super().check_options(options)
        if options.compute_capabilities:
            known = _compute_capabilities(require(self.module, self.extra))
            for wanted in options.compute_capabilities:
                if wanted not in known:
                    raise UnknownNameError(f"compute capability of {self.title}", wanted, known)

    def _configure(self, runtime: ModuleType, config: Any, options: BuildOptions) -> None:
        super()._configure(runtime, config, options)
        known = _compute_capabilities(runtime)
        config.num_compute_capabilities = len(options.compute_capabilities)
        for place, wanted in enumerate(options.compute_capabilities):
            config.set_compute_capability(known[wanted], place)

    def _layers(self, runtime: ModuleType, plan: bytes, log: RuntimeLog) -> str:
        return log.layers

    def _targets(self, options: BuildOptions, gpus: Sequence[hardware.Gpu]) -> dict[str, Any]:
        # Portable unless told otherwise:
        # https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/cpu-engines.html
        return {
            "compute_capabilities": options.compute_capabilities,
            "minimum_compute_capability": None if options.compute_capabilities else "8.0",
        }


def _add_profile(
    builder: Any, network: Any, config: Any, options: BuildOptions
) -> dict[str, Profile]:
    """Say which batches the engine must take: from one image to the largest batch."""
    largest, best = options.max_batch_size, _best_batch(options)
    profile = builder.create_optimization_profile()
    shapes = {}
    for place in range(network.num_inputs):
        tensor = network.get_input(place)
        rest = tuple(tensor.shape)[1:]
        shape = Profile((1, *rest), (best, *rest), (largest, *rest))
        shapes[tensor.name] = shape
        profile.set_shape(tensor.name, shape.min, shape.opt, shape.max)
    config.add_optimization_profile(profile)
    return shapes


def _best_batch(options: BuildOptions) -> int:
    best = options.optimal_batch_size
    return optimal_batch_size(options.max_batch_size) if best is None else best


def _compute_capabilities(runtime: ModuleType) -> dict[str, Any]:
    """TensorRT-RTX's members for what it knows, such as ``8.6``."""
    members = runtime.ComputeCapability.__members__
    return {f"{m[2:-1]}.{m[-1]}": members[m] for m in members if m.startswith("SM")}


def _stated(options: BuildOptions) -> dict[str, Any]:
    """The options that were given; files are this machine's own business."""
    return {
        option.name: value
        for option in dataclasses.fields(options)
        if (value := getattr(options, option.name)) != option.default
        and not isinstance(value, Path)
    }
