"""What every backend offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from delugeserve_export.interface import Infer, Precision, SumForm


class Backend(ABC):
    """One runtime, as the exporter and Triton see it.

    Attributes:
        name: Triton's name of the backend.
        title: the name to print.
        module: the Python module of the runtime.
        extra: the extra of this project that installs it.
        sum_form: how it likes weighted sums written best.
        precisions: what it can compute in, the best first.
        instance_kind: Triton's kind of its instances; ``KIND_AUTO`` takes a GPU where there is one.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    module: ClassVar[str]
    extra: ClassVar[str] = "export"
    sum_form: ClassVar[SumForm]
    precisions: ClassVar[tuple[Precision, ...]]
    instance_kind: ClassVar[str] = "KIND_AUTO"

    @abstractmethod
    def best_precision(self) -> Precision:
        """The precision ``auto`` means on this machine."""

    @abstractmethod
    def build(self, model: bytes, folder: Path) -> Path:
        """Write the artefact of a serialised ONNX model; return the path that Triton loads."""

    @abstractmethod
    def load(self, artefact: Path, precision: Precision) -> Infer:
        """Load an artefact to run it in this process, on all cores."""

    @abstractmethod
    def triton_parameters(self, precision: Precision) -> Mapping[str, str]:
        """The parameters of ``config.pbtxt`` that make Triton's backend compute likewise."""


def load_runs(backend: Backend, artefact: Path, precision: Precision) -> dict[Precision, Infer]:
    """Load an artefact to compute in its precision, and in fp32 as well if that is another."""
    wanted: tuple[Precision, ...] = (precision, "fp32")
    return {one: backend.load(artefact, one) for one in dict.fromkeys(wanted)}
