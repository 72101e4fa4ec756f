"""Backends: how an ONNX graph becomes a file that a Triton backend runs.

Each module holds one :class:`~delugeserve_export.engines.base.Backend`; this one is their registry.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from types import MappingProxyType

from delugeserve import hardware
from delugeserve.errors import MissingExtraError, UnknownNameError
from delugeserve_export.engines.base import Backend
from delugeserve_export.engines.onnxruntime import OnnxRuntime
from delugeserve_export.engines.openvino import OpenVino

BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {backend.name: backend for backend in (OnnxRuntime(), OpenVino())}
)
AUTO = "auto"


def choose_backend(name: str) -> tuple[Backend, str]:
    """Find a backend by name, or the best one installed for this machine.

    Args:
        name: a backend's name or ``auto``.

    Returns:
        The backend, and one sentence that says why it was taken.

    Raises:
        UnknownNameError: there is none of that name.
        MissingExtraError: its runtime is not installed.
    """
    if name == AUTO:
        return _best_backend()
    if name not in BACKENDS:
        raise UnknownNameError("backend", name, [*BACKENDS, AUTO])
    backend = BACKENDS[name]
    if not _installed(backend):
        raise MissingExtraError(backend.module, backend.extra)
    return backend, f"{backend.title}, as asked"


def _best_backend() -> tuple[Backend, str]:
    onnxruntime, openvino = BACKENDS["onnxruntime"], BACKENDS["openvino"]
    if hardware.has_native_bf16() and _installed(openvino):
        return openvino, (
            "OpenVINO in bf16: this processor multiplies bf16 natively, "
            "about twice as fast as any fp32 engine"
        )
    if _installed(onnxruntime):
        reason = (
            "OpenVINO, which would compute in bf16 here, is not installed"
            if hardware.has_native_bf16()
            else "this processor has no native bf16, and in fp32 it is as fast as OpenVINO"
        )
        return onnxruntime, f"ONNX Runtime in fp32: {reason}"
    if _installed(openvino):
        return openvino, "OpenVINO: the only runtime installed"
    raise MissingExtraError(onnxruntime.module, "export")


def _installed(backend: Backend) -> bool:
    return importlib.util.find_spec(backend.module) is not None
