"""Floating-point types of a graph: which weights fit, and how ONNX stores them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from delugeserve.artifacts.interface import FloatType
from delugeserve.errors import UsageError


@dataclass(frozen=True)
class FloatFormat:
    """How ONNX stores a type.

    Attributes:
        onnx: number of the type in ``TensorProto``.
        torch: the same type in PyTorch.
        opset: the first version of the operator set in which every operator here takes it:
            QuantizeLinear takes float16 from 19 on, Conv and pooling take bfloat16 from 22 on.
        ir_version: the file format that came with that operator set.
    """

    onnx: int
    torch: torch.dtype
    opset: int
    ir_version: int


FORMATS: Mapping[FloatType, FloatFormat] = MappingProxyType(
    {
        "fp32": FloatFormat(TensorProto.FLOAT, torch.float32, 17, 8),
        "fp16": FloatFormat(TensorProto.FLOAT16, torch.float16, 19, 9),
        "bf16": FloatFormat(TensorProto.BFLOAT16, torch.bfloat16, 22, 10),
    }
)


def encode(name: str, value: NDArray[np.float32], float_type: FloatType) -> onnx.TensorProto:
    """Round an array to a type, to nearest even, and return it as a constant of a graph.

    Raises:
        UsageError: a value is too large for the type.
    """
    form = FORMATS[float_type]
    rounded = torch.from_numpy(value).to(form.torch)
    if not torch.isfinite(rounded).all() and np.isfinite(value).all():
        raise UsageError(
            f"The weight '{name}' has the value {np.abs(value).max():.3g}, but the maximum of "
            f"{float_type} is {torch.finfo(form.torch).max:.5g}.",
            "Use --precision fp32 or bf16.",
        )
    raw: Any = rounded.contiguous().view(torch.uint8).numpy().tobytes()
    return helper.make_tensor(name, form.onnx, value.shape, raw, raw=True)
