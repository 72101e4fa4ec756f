"""OpenVINO: the artefact is its own format, ``model.xml`` with ``model.bin``."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delugeserve.artifacts.interface import INPUT, LOGITS, PROBABILITIES, Infer, Outputs, Precision
from delugeserve.errors import require
from delugeserve.runtimes.base import DEFAULTS, Backend, BuildOptions
from delugeserve.system import hardware

# What the runtime graph calls them.
_PRECISIONS: Mapping[str, Precision] = {
    "f32": "fp32",
    "f16": "fp16",
    "bf16": "bf16",
    "i8": "int8",
    "u8": "int8",
}


class OpenVino(Backend):
    """OpenVINO on the CPU, in fp32, bf16 or int8. Weights that are not int8 are stored in fp32."""

    name = "openvino"
    title = "OpenVINO"
    module = "openvino"
    sum_form = "horner"
    integers = "either"
    precisions = ("bf16", "fp32", "int8")
    instance_kind = "KIND_CPU"

    def best_precision(self) -> Precision:
        """bf16 where the processor computes it natively, else fp32."""
        return "bf16" if hardware.has_native_bf16() else "fp32"

    def build(self, model: bytes, folder: Path, options: BuildOptions = DEFAULTS) -> Path:
        """Write ``model.xml`` and ``model.bin``.

        Raises:
            OSError: there is no room for them.
        """
        runtime = require(self.module, "export")
        path = folder / "model.xml"
        converted = _core().read_model(model)
        try:
            # Compression would round the weights to fp16 behind the user's back.
            runtime.save_model(converted, path, compress_to_fp16=False)
        except RuntimeError as error:  # what it raises on a full disk
            raise OSError(f"{self.title} says '{error}'") from error
        return path

    def load(self, artefact: Path, precision: Precision) -> Infer:
        """Load ``model.xml``."""
        compiled = self._compile(artefact, precision)

        def infer(images: NDArray[np.uint8]) -> Outputs:
            outputs = compiled({INPUT: images})
            return outputs[LOGITS], outputs[PROBABILITIES]

        return infer

    def executed_precisions(
        self, artefact: Path, precision: Precision
    ) -> Mapping[str, Mapping[Precision, int]]:
        """Count by the types that the compiled model's convolutions read."""
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
        """The names and values of NVIDIA's OpenVINO backend, which ours reads too.

        Without padding NVIDIA's refuses every batch but the largest; ours runs each as it comes.
        """
        parameters = {"ENABLE_BATCH_PADDING": "YES"}
        if self._hint(precision) == "bf16":
            parameters["HINT_BF16"] = "YES"
        return parameters

    def _compile(self, artefact: Path, precision: Precision) -> Any:
        settings = {"INFERENCE_PRECISION_HINT": self._hint(precision)}
        return _core().compile_model(artefact, "CPU", settings)

    def _hint(self, precision: Precision) -> str:
        """What the layers compute in that are not quantised."""
        wanted = self.best_precision() if precision == "int8" else precision
        return {"fp32": "f32", "bf16": "bf16"}[wanted]


@functools.cache
def _core() -> Any:
    """OpenVINO's core, one for the whole process.

    Its CPU plugin gives the thread that loads it a signal stack of its own, and frees that with the
    last core or network, in whichever thread that happens. If it is another one, the next signal to
    the first thread ends the process; so the plugin is never let go.
    """
    return require(OpenVino.module, "export").Core()
