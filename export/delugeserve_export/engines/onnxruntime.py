"""ONNX Runtime: the artefact is the ONNX file itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from delugeserve.errors import require
from delugeserve_export.engines.base import DEFAULTS, Backend, BuildOptions
from delugeserve_export.interface import INPUT, LOGITS, PROBABILITIES, Infer, Outputs, Precision


class OnnxRuntime(Backend):
    """ONNX Runtime on the CPU, in fp32."""

    name = "onnxruntime"
    title = "ONNX Runtime"
    module = "onnxruntime"
    # It keeps a BatchNormalization in its blocked layout, as a depthwise convolution; not a Mul.
    sum_form = "batchnorm"
    precisions = ("fp32",)

    def best_precision(self) -> Precision:
        """fp32, its only one on a CPU."""
        return "fp32"

    def build(self, model: bytes, folder: Path, options: BuildOptions = DEFAULTS) -> Path:
        """Write ``model.onnx``."""
        path = folder / "model.onnx"
        path.write_bytes(model)
        return path

    def load(self, artefact: Path, precision: Precision) -> Infer:
        """Load ``model.onnx``."""
        runtime = require(self.module, "export")
        session = runtime.InferenceSession(artefact, providers=["CPUExecutionProvider"])

        def infer(images: NDArray[np.uint8]) -> Outputs:
            logits, probabilities = session.run([LOGITS, PROBABILITIES], {INPUT: images})
            return logits, probabilities

        return infer

    def triton_parameters(self, precision: Precision) -> Mapping[str, str]:
        """None: by default it uses every core."""
        return {}
