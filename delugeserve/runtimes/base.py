"""The record of a runtime: everything the exporter, the server and the doctor ask about it."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from delugeserve.artifacts.interface import (
    FloatType,
    Infer,
    Integers,
    Precision,
    SumForm,
    optimal_batch_size,
)
from delugeserve.artifacts.records import PlanDetails
from delugeserve.artifacts.repository import StoredModel
from delugeserve.errors import MissingExtraError, UsageError

PYTHON_RUNTIME = "model.py"
"""Value of ``runtime`` in config.pbtxt that makes Triton run a backend's Python file, even where
the backend has a native library too."""


@dataclass(frozen=True)
class BuildOptions:
    """How an artefact is built.

    Attributes:
        max_batch_size: the largest batch.
        optimal_batch_size: the batch size to tune for; None for
            :func:`~delugeserve.artifacts.interface.optimal_batch_size`.
    """

    max_batch_size: int = 64
    optimal_batch_size: int | None = None

    @property
    def tuned_batch_size(self) -> int:
        """The batch size to tune for."""
        if self.optimal_batch_size is None:
            return optimal_batch_size(self.max_batch_size)
        return self.optimal_batch_size


DEFAULTS = BuildOptions()


@dataclass(frozen=True)
class Preference:
    """How suitable a runtime is for this machine.

    Attributes:
        rank: larger is better; about the speed relative to fp32 on ONNX Runtime.
        reason: a clause for the user, such as ``this machine has the GPU NVIDIA L4``.
    """

    rank: float
    reason: str


class Backend(ABC):
    """One runtime.

    Attributes:
        name: Triton's name of the backend.
        title: the name to print.
        module: the Python module of the runtime.
        distributions: the packages that provide the module; the first is the one to install.
        extra: the extra of this project that installs what exporting takes.
        serving_extra: the extra of this project that installs what serving takes.
        bindings: other Python modules that running an artefact takes.
        sum_form: the form of weighted sums that it runs fastest.
        precisions: what it can compute in, the best first.
        typed_graph: it computes in the types of the graph; other runtimes lower the precision of
            an fp32 graph by a setting.
        integers: the types of quantised activations that it supports.
        instance_kind: Triton's kind of its instances, ``KIND_CPU`` or ``KIND_GPU``.
        instance_count: number of instances in config.pbtxt.
        triton_runtime: ``runtime`` in config.pbtxt; empty lets Triton choose, which takes a native
            backend before a Python-based one. See :data:`PYTHON_RUNTIME`.
        offers_all_outputs: Triton's backend loads an artefact only if config.pbtxt has all of its
            outputs.
        support_files: files to copy next to the ``model.py`` of its Python-based backend.
        options: the fields of :class:`BuildOptions` that it supports, apart from the largest batch.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    module: ClassVar[str]
    distributions: ClassVar[tuple[str, ...]]
    extra: ClassVar[str] = "export"
    serving_extra: ClassVar[str] = "server"
    bindings: ClassVar[tuple[str, ...]] = ()
    sum_form: ClassVar[SumForm]
    precisions: ClassVar[tuple[Precision, ...]]
    typed_graph: ClassVar[bool] = False
    integers: ClassVar[Integers] = "int8"
    instance_kind: ClassVar[str] = "KIND_CPU"
    # One instance with all cores: config.pbtxt is written where the server's cores are not known,
    # and a lone image is answered fastest so.
    instance_count: ClassVar[int] = 1
    triton_runtime: ClassVar[str] = ""
    offers_all_outputs: ClassVar[bool] = False
    support_files: ClassVar[tuple[Path, ...]] = ()
    options: ClassVar[frozenset[str]] = frozenset()

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU."""
        return self.instance_kind == "KIND_GPU"

    @property
    def flag(self) -> str:
        """The name to give to ``--backend``."""
        return self.name.replace("_", "-")

    def is_installed(self) -> bool:
        """Whether its Python module is installed; nothing is imported."""
        return _is_installed(self.module)

    def missing_bindings(self) -> tuple[str, ...]:
        """Return the modules of :attr:`bindings` that are not installed."""
        return tuple(module for module in self.bindings if not _is_installed(module))

    def installed_version(self) -> str | None:
        """Return the version of the installed package; None if there is none."""
        for name in self.distributions:
            try:
                return importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        return None

    def requirement(self) -> str:
        """Return the installed package and its version, as pip takes them."""
        for name in self.distributions:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                return f"{name}=={importlib.metadata.version(name)}"
        return self.distributions[0]

    def require_for_serving(self) -> None:
        """Check that its Python-based Triton backend can be used.

        Raises:
            MissingExtraError: its Python module is not installed.
        """
        if not self.is_installed():
            raise MissingExtraError(self.module, self.serving_extra)

    def missing_to_build(self) -> str | None:
        """Return what this machine lacks to build for it, such as ``an NVIDIA GPU``; or None."""
        return None

    def missing_to_run(self) -> str | None:
        """Return what this machine lacks to run it, such as ``an NVIDIA GPU``; or None."""
        return None

    def builds_here(self) -> bool:
        """Whether this machine can build for it, once it is installed."""
        return self.missing_to_build() is None

    def runs_here(self) -> bool:
        """Whether this machine can run it, once it is installed."""
        return self.missing_to_run() is None

    @abstractmethod
    def preference(self) -> Preference | None:
        """Return how suitable it is for this machine; None if it cannot run here."""

    @abstractmethod
    def best_precision(self) -> Precision:
        """Return the precision that ``auto`` selects on this machine."""

    def float_type(self, precision: Precision) -> FloatType:
        """Return the type to write a graph in; for int8, that of the layers not quantised."""
        if not self.typed_graph:
            return "fp32"
        return "fp16" if precision == "int8" else precision

    def check_options(self, options: BuildOptions) -> None:
        """Check build options, before any work.

        Raises:
            UsageError: an option has no effect on this backend.
        """
        for option in dataclasses.fields(options):
            supported = option.name == "max_batch_size" or option.name in self.options
            if not supported and getattr(options, option.name) != option.default:
                raise UsageError(
                    f"{self.title} does not support --{option.name.replace('_', '-')}.",
                    "Omit it, or choose another --backend.",
                )

    @abstractmethod
    def build(self, model: bytes, folder: Path, options: BuildOptions = DEFAULTS) -> Path:
        """Build the artefact of a serialised ONNX model.

        Args:
            model: the ONNX model.
            folder: an existing folder, into which the artefact's files are written.
            options: how to build it.

        Returns:
            Path of the file that Triton loads.
        """

    def describe(self, artefact: Path) -> PlanDetails | None:
        """Return the details of a plan, for the manifest; None for other artefacts."""
        return None

    def executed_precisions(
        self, artefact: Path, precision: Precision
    ) -> Mapping[str, Mapping[Precision, int]]:
        """Ask the runtime which precisions it really computes an artefact in.

        Returns:
            The number of operations in each precision, by kind of operation (only
            ``Convolution`` so far); {} if the runtime does not report it.
        """
        return {}

    @abstractmethod
    def load(self, artefact: Path, precision: Precision) -> Infer:
        """Load an artefact into this process.

        Raises:
            MissingDeviceError: it needs a GPU, and there is none.
        """

    def triton_parameters(self, precision: Precision) -> Mapping[str, str]:
        """Return the ``parameters`` of config.pbtxt with which Triton's backend computes alike."""
        return {}

    def check_loadable(  # noqa: B027 - most runtimes leave this to the server
        self, model: StoredModel, *, native: bool = False
    ) -> None:
        """Check, before a server is started, that it can load the served version of a model.

        Args:
            model: a model of a repository, for this backend.
            native: the server uses a native backend with a runtime that this Python does not see.

        Raises:
            MissingDeviceError: the model needs a GPU, and this machine has none.
            PlanError: the model is for another GPU or another version of the runtime.
        """


def load_runs(backend: Backend, artefact: Path, precision: Precision) -> dict[Precision, Infer]:
    """Load an artefact in its own precision, and in fp32 as well if the backend can run both."""
    alone = backend.typed_graph or precision == "int8"
    wanted: tuple[Precision, ...] = (precision,) if alone else (precision, "fp32")
    return {one: backend.load(artefact, one) for one in dict.fromkeys(wanted)}


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that contains it is missing
        return False
