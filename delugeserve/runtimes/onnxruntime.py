"""ONNX Runtime: the artefact is the ONNX file itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delugeserve.artifacts.interface import INPUT, LOGITS, PROBABILITIES, Infer, Outputs, Precision
from delugeserve.errors import MissingExtraError
from delugeserve.runtimes.base import DEFAULTS, Backend, BuildOptions, Preference
from delugeserve.system import hardware
from delugeserve.system.files import temporary_folder
from delugeserve.system.imports import require

_CONVOLUTIONS: Mapping[str, Precision] = {
    "Conv": "fp32",
    "FusedConv": "fp32",
    "NhwcFusedConv": "fp32",
    "QLinearConv": "int8",
    "ConvInteger": "int8",
}
_ERROR = 3  # ONNX Runtime's log severity


class OnnxRuntime(Backend):
    """ONNX Runtime on the CPU, in fp32 or int8.

    Its native Triton backend reads the same artefact. Without an instance kind it would take a GPU
    where there is one, on which nothing was verified, so the kind is ``KIND_CPU``.
    """

    name = "onnxruntime"
    title = "ONNX Runtime"
    module = "onnxruntime"
    distributions = ("onnxruntime", "onnxruntime-gpu")
    # It runs BatchNormalization in its blocked layout, as a depthwise convolution, but not Mul.
    sum_form = "batchnorm"
    integers = "uint8"
    precisions = ("fp32", "int8")

    def preference(self) -> Preference:
        """Return the rank that others are compared with."""
        if hardware.has_native_bf16():
            return Preference(1.0, "fast in fp32")
        return Preference(
            1.0, "this processor has no native bf16, and in fp32 no other runtime is faster"
        )

    def best_precision(self) -> Precision:
        """Return fp32; int8 is used only on request."""
        return "fp32"

    def build(self, model: bytes, folder: Path, options: BuildOptions = DEFAULTS) -> Path:
        """Write ``model.onnx``."""
        path = folder / "model.onnx"
        path.write_bytes(model)
        return path

    def load(self, artefact: Path, precision: Precision) -> Infer:
        """Load ``model.onnx``."""
        session = open_session(artefact)

        def infer(images: NDArray[np.uint8]) -> Outputs:
            logits, probabilities = session.run([LOGITS, PROBABILITIES], {INPUT: images})
            return logits, probabilities

        return infer

    def executed_precisions(
        self, artefact: Path, precision: Precision
    ) -> Mapping[str, Mapping[Precision, int]]:
        """Count the operators of the optimised graph; needs the package ``onnx``."""
        try:
            onnx = require("onnx", "export")
        except MissingExtraError:  # a machine that only serves has no other use for it
            return {}
        with temporary_folder() as folder:
            path = folder / "optimised.onnx"
            try:
                open_session(artefact, optimized_model_filepath=str(path))
            except Exception as error:
                if not path.exists():
                    raise
                # The graph was optimised but could not be written in full, on a full disk.
                raise OSError(f"{self.title} reports '{error}'") from error
            optimised = onnx.load(path)
        counted: Counter[Precision] = Counter()
        for node in optimised.graph.node:
            grouped = any(field.name == "group" and field.i > 1 for field in node.attribute)
            # Grouped convolutions are the terms of weighted sums.
            if node.op_type in _CONVOLUTIONS and not grouped:
                counted[_CONVOLUTIONS[node.op_type]] += 1
        return {"Convolution": dict(counted)}


def open_session(model: Path | bytes, **settings: str) -> Any:
    """Open an ONNX Runtime session on the CPU.

    Args:
        model: an ONNX file, or a serialised ONNX model.
        settings: attributes of ``onnxruntime.SessionOptions``.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        Exception: ONNX Runtime cannot load the model; its errors have no common base.
    """
    runtime = require(OnnxRuntime.module, OnnxRuntime.extra)
    options = runtime.SessionOptions()
    # Otherwise it warns about every constant that it cannot fold in fp16, and that an optimised
    # graph is for this CPU only.
    options.log_severity_level = _ERROR
    for name, value in settings.items():
        setattr(options, name, value)
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
