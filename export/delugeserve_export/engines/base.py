"""What every backend offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from delugeserve_export.graph import SumForm

Precision = Literal["fp32", "bf16"]

Outputs = tuple[NDArray[np.float32], NDArray[np.float32]]
Infer = Callable[[NDArray[np.uint8]], Outputs]
"""Maps uint8 images ``[N, H, W, 3]`` to logits and probabilities, float32 ``[N, classes]``."""


class Backend(ABC):
    """One runtime, as the exporter and Triton see it.

    Attributes:
        name: Triton's name of the backend.
        title: the name to print.
        module: the Python module of the runtime.
        sum_form: how it likes weighted sums written best.
        precisions: what it can compute in, the best first.
        instance_kind: Triton's kind of its instances; ``KIND_AUTO`` takes a GPU where there is one.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    module: ClassVar[str]
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
