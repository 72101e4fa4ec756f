"""OpenVINO: the artefact is its own format, ``model.xml`` with ``model.bin``."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delugeserve.artifacts.interface import LOGITS, PROBABILITIES, Infer, Outputs, Precision
from delugeserve.runtimes import openvino_engine
from delugeserve.runtimes.base import DEFAULTS, PYTHON_RUNTIME, Backend, BuildOptions, Preference
from delugeserve.system import hardware
from delugeserve.system.imports import require

# Names of element types in OpenVINO's runtime graph.
_PRECISIONS: Mapping[str, Precision] = {
    "f32": "fp32",
    "f16": "fp16",
    "bf16": "bf16",
    "i8": "int8",
    "u8": "int8",
}


class OpenVino(Backend):
    """OpenVINO on the CPU, in fp32, bf16 or int8. Weights that are not int8 are stored in fp32.

    Triton's native OpenVINO backend cannot serve these artefacts: it refuses batches smaller than
    the largest or pads them all, and it cannot be made to compute in fp32. So config.pbtxt asks for
    the Python-based backend.
    """

    name = "openvino"
    title = "OpenVINO"
    module = "openvino"
    distributions = ("openvino",)
    sum_form = "horner"
    integers = "either"
    precisions = ("bf16", "fp32", "int8")
    triton_runtime = PYTHON_RUNTIME
    support_files = (Path(openvino_engine.__file__),)

    def preference(self) -> Preference:
        """Prefer it where the processor computes in bf16 natively."""
        if hardware.has_native_bf16():
            return Preference(
                2.0,
                "this processor multiplies bf16 natively, about twice as fast as any fp32 engine",
            )
        return Preference(1.0, "fast in fp32")

    def best_precision(self) -> Precision:
        """Return bf16 where the processor computes in it natively, else fp32."""
        return "bf16" if hardware.has_native_bf16() else "fp32"

    def build(self, model: bytes, folder: Path, options: BuildOptions = DEFAULTS) -> Path:
        """Write ``model.xml`` and ``model.bin``.

        Raises:
            OSError: the disk is full.
        """
        runtime = require(self.module, self.extra)
        path = folder / "model.xml"
        converted = _core().read_model(model)
        try:
            # Compression would round the weights to fp16.
            runtime.save_model(converted, path, compress_to_fp16=False)
        except RuntimeError as error:  # what it raises on a full disk
            raise OSError(f"{self.title} reports '{error}'") from error
        return path

    def load(self, artefact: Path, precision: Precision) -> Infer:
        """Load ``model.xml``, to run as the server does."""
        engine = openvino_engine.Engine(_core(), artefact, self._settings(precision))

        def infer(images: NDArray[np.uint8]) -> Outputs:
            outputs = engine.run(np.ascontiguousarray(images), (LOGITS, PROBABILITIES))
            return outputs[LOGITS].copy(), outputs[PROBABILITIES].copy()

        return infer

    def executed_precisions(
        self, artefact: Path, precision: Precision
    ) -> Mapping[str, Mapping[Precision, int]]:
        """Count the convolutions of the compiled model by the type of their input."""
        layers = (
            operation.get_rt_info()
            for operation in self._compile(artefact, precision).get_runtime_model().get_ops()
        )
        counted = Counter(
            _PRECISIONS[layer["runtimePrecision"].astype(str)]
            for layer in layers
            if layer["layerType"].astype(str) == "Convolution"
        )
        return {"Convolution": dict(counted)}

    def triton_parameters(self, precision: Precision) -> Mapping[str, str]:
        """Return the precision, under the name that Triton's native backend has for it."""
        return {"HINT_BF16": "YES"} if self._hint(precision) == "bf16" else {}

    def _compile(self, artefact: Path, precision: Precision) -> Any:
        return _core().compile_model(artefact, "CPU", self._settings(precision))

    def _settings(self, precision: Precision) -> dict[str, str]:
        return {"INFERENCE_PRECISION_HINT": self._hint(precision)}

    def _hint(self, precision: Precision) -> str:
        """Return OpenVINO's name of the precision of the layers that are not quantised."""
        wanted = self.best_precision() if precision == "int8" else precision
        return {"fp32": "f32", "bf16": "bf16"}[wanted]


@functools.cache
def _core() -> Any:
    """Return OpenVINO's core, one for the whole process.

    Its CPU plugin installs an alternate signal stack for the thread that loads it, and frees that
    stack with the last core or network, in whichever thread that happens. If it is another thread,
    the next signal to the first thread kills the process. So the plugin is never unloaded.
    """
    return require(OpenVino.module, OpenVino.extra).Core()
