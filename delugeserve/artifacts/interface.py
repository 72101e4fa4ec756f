"""The inputs, outputs and types of every artefact, whichever runtime it is for.

Input ``image``: uint8 ``[N, H, W, 3]``, RGB, normalised inside. Outputs ``logits`` and
``probabilities``: float32 ``[N, classes]``. N is free, up to a maximum. This module needs neither
torch nor onnx, so that an artefact can be run where only its runtime is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

INPUT = "image"
LOGITS = "logits"
PROBABILITIES = "probabilities"

Precision = Literal["fp32", "fp16", "bf16", "int8"]
"""int8 is that of the quantised layers; the others compute in the best remaining precision."""

Integers = Literal["int8", "uint8", "either"]
"""Integer type of quantised activations. Weights are always int8.

uint8 has twice the levels for a tensor without negative values, such as the output of a ReLU.
``either`` uses it for those tensors and int8 for the others. ``uint8`` uses it for all, with a zero
point of 128 for tensors with negative values: ONNX Runtime needs one type on both sides of a
convolution. TensorRT supports ``int8`` only.
"""

Outputs = tuple[NDArray[np.float32], NDArray[np.float32]]
Infer = Callable[[NDArray[np.uint8]], Outputs]
"""Maps uint8 images ``[N, H, W, 3]`` to logits and probabilities, float32 ``[N, classes]``."""

FloatType = Literal["fp32", "fp16", "bf16"]
"""Type of a graph's weights and activations."""

SumForm = Literal["mul", "batchnorm", "conv", "horner"]
"""How a weighted sum is written: Add nodes with each term ``w * h`` as Mul, as BatchNormalization
or as a depthwise Conv of one pixel; or :mod:`Horner's scheme <delugeserve_export.horner>`, in Mul
and Add by turns, for which fp16 is too narrow. Runtimes differ in which they fuse, and so in which
is fastest."""


def optimal_batch_size(maximum: int) -> int:
    """Return the batch size that engines are tuned for; images/s hardly rise beyond it."""
    return min(16, maximum)
