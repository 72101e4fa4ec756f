"""What every backend offers."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from delugeserve.artifacts.interface import FloatType, Infer, Integers, Precision, SumForm
from delugeserve.artifacts.records import PlanDetails
from delugeserve.errors import UsageError
from delugeserve.system.hardware import Gpu


@dataclass(frozen=True)
class BuildOptions:
    """How an artefact is built; None, False and empty leave it to the runtime.

    Attributes:
        max_batch_size: the most images of one batch.
        optimal_batch_size: the batch that is tuned for; None means
            :func:`~delugeserve.artifacts.interface.optimal_batch_size`.
        workspace: the most scratch memory a layer may take, in MiB.
        optimization_level: from 0, quick to build, to 5, thoroughly tuned.
        hardware_compatibility: GPUs to run on besides the one that builds: ``ampere+`` or
            ``same-compute-capability``.
        compute_capabilities: GPUs to build for, such as ``8.6``.
        version_compatible: let later versions of the runtime load it.
        strip_weights: leave the weights out; they lie beside it and are put back when it is loaded.
        refit: let the weights be exchanged later.
        timing_cache: file that remembers how fast each layer's variants were.
        dump_layers: write a list of the layers beside the artefact.
    """

    max_batch_size: int = 64
    optimal_batch_size: int | None = None
    workspace: int | None = None
    optimization_level: int | None = None
    hardware_compatibility: str | None = None
    compute_capabilities: tuple[str, ...] = ()
    version_compatible: bool = False
    strip_weights: bool = False
    refit: bool = False
    timing_cache: Path | None = None
    dump_layers: bool = False


DEFAULTS = BuildOptions()


class Backend(ABC):
    """One runtime, as the exporter and Triton see it.

    Attributes:
        name: Triton's name of the backend.
        title: the name to print.
        module: the Python module of the runtime.
        extra: the extra of this project that installs it.
        sum_form: how it likes weighted sums written best.
        precisions: what it can compute in, the best first.
        typed_graph: it computes in the types of the graph; others are lowered by a setting.
        integers: what it likes quantised activations stored in best.
        instance_kind: Triton's kind of its instances; ``KIND_AUTO`` takes a GPU where there is one.
        bindings: the Python modules that running takes besides.
        options: the fields of :class:`BuildOptions` that it knows, besides the largest batch.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    module: ClassVar[str]
    extra: ClassVar[str] = "export"
    sum_form: ClassVar[SumForm]
    precisions: ClassVar[tuple[Precision, ...]]
    typed_graph: ClassVar[bool] = False
    integers: ClassVar[Integers] = "int8"
    instance_kind: ClassVar[str] = "KIND_AUTO"
    bindings: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def best_precision(self) -> Precision:
        """The precision ``auto`` means on this machine."""

    def float_type(self, precision: Precision) -> FloatType:
        """What the graph is written in; for int8, what of it is not quantised."""
        if not self.typed_graph:
            return "fp32"
        return "fp16" if precision == "int8" else precision

    def builds_here(self) -> bool:
        """Whether this machine has what building for it takes."""
        return True

    def runs_here(self) -> bool:
        """Whether this machine has what running it takes."""
        return True

    def suits(self, gpu: Gpu) -> bool:
        """Whether it is made for a GPU."""
        return False

    def check_options(self, options: BuildOptions) -> None:
        """Refuse options that make no difference to this backend.

        Raises:
            UsageError: there is one.
        """
        for option in dataclasses.fields(options):
            known = option.name == "max_batch_size" or option.name in self.options
            if not known and getattr(options, option.name) != option.default:
                flag = {"compute_capabilities": "compute_capability"}.get(option.name, option.name)
                raise UsageError(
                    f"{self.title} has no use for --{flag.replace('_', '-')}.",
                    "Leave it out, or choose another --backend.",
                )

    @abstractmethod
    def build(self, model: bytes, folder: Path, options: BuildOptions = DEFAULTS) -> Path:
        """Write the artefact of a serialised ONNX model; return the path that Triton loads."""

    def describe(self, artefact: Path) -> PlanDetails | None:
        """Return the details of a plan, for the manifest; None for other artefacts."""
        return None

    def executed_precisions(
        self, artefact: Path, precision: Precision
    ) -> Mapping[str, Mapping[Precision, int]]:
        """Ask the runtime what it really computes an artefact in.

        Returns:
            By kind of operation, so far ``Convolution``, how many of them run in each precision;
            {} if it does not tell.
        """
        return {}

    @abstractmethod
    def load(self, artefact: Path, precision: Precision) -> Infer:
        """Load an artefact to run it in this process.

        Raises:
            MissingDeviceError: it needs a GPU, and there is none.
        """

    @abstractmethod
    def triton_parameters(self, precision: Precision) -> Mapping[str, str]:
        """The parameters of ``config.pbtxt`` that make Triton's backend compute likewise."""


def load_runs(backend: Backend, artefact: Path, precision: Precision) -> dict[Precision, Infer]:
    """Load an artefact to compute in its precision, and in fp32 as well if it can do both."""
    alone = backend.typed_graph or precision == "int8"
    wanted: tuple[Precision, ...] = (precision,) if alone else (precision, "fp32")
    return {one: backend.load(artefact, one) for one in dict.fromkeys(wanted)}
