"""Backends: how an ONNX graph becomes a file that a Triton backend runs.

Each module holds one :class:`~delugeserve.runtimes.base.Backend` or two that are nearly the
same; this one is their registry.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from types import MappingProxyType

from delugeserve.errors import MissingExtraError, UnknownNameError
from delugeserve.runtimes.base import Backend
from delugeserve.runtimes.onnxruntime import OnnxRuntime
from delugeserve.runtimes.openvino import OpenVino
from delugeserve.runtimes.tensorrt import TensorRt, TensorRtRtx
from delugeserve.system import hardware

BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {backend.name: backend for backend in (OnnxRuntime(), OpenVino(), TensorRt(), TensorRtRtx())}
)
AUTO = "auto"


def choose_backend(name: str, precision: str = AUTO) -> tuple[Backend, str]:
    """Find a backend by name, or the best one installed for this machine.

    Args:
        name: a backend's name, with hyphens or as Triton spells it, or ``auto``.
        precision: what it is to compute in, if that has been decided: ``auto`` takes a backend
            that can.

    Returns:
        The backend, and one sentence that says why it was taken.

    Raises:
        UnknownNameError: there is none of that name.
        MissingExtraError: its runtime is not installed.
    """
    if name == AUTO:
        return _best_backend() if precision == AUTO else _best_backend_in(precision)
    backend = BACKENDS.get(name.replace("-", "_"))
    if backend is None:
        known = [*(known.replace("_", "-") for known in BACKENDS), AUTO]
        raise UnknownNameError("backend", name, known)
    if not _installed(backend):
        raise MissingExtraError(backend.module, backend.extra)
    return backend, f"{backend.title}, as asked"


def _best_backend() -> tuple[Backend, str]:
    return _best_gpu_backend() or _best_cpu_backend()


def _best_backend_in(precision: str) -> tuple[Backend, str]:
    """The best backend if it has the precision, or else the first that has."""
    best, reason = _best_backend()
    if precision == best.best_precision():
        return best, reason
    capable = [
        backend
        for backend in (best, *BACKENDS.values())
        if precision in backend.precisions and _installed(backend) and backend.runs_here()
    ]
    backend = capable[0] if capable else best
    return backend, f"{backend.title}, the first choice here of what computes in {precision}"


def _best_gpu_backend() -> tuple[Backend, str] | None:
    for gpu in hardware.usable_gpus()[:1]:
        for backend in BACKENDS.values():
            if backend.suits(gpu) and _installed(backend):
                return backend, (
                    f"{backend.title} in {backend.best_precision()}: this machine has the GPU "
                    f"{gpu.name}"
                )
    return None


def _best_cpu_backend() -> tuple[Backend, str]:
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
    raise MissingExtraError(onnxruntime.module, onnxruntime.extra)


def _installed(backend: Backend) -> bool:
    return importlib.util.find_spec(backend.module) is not None
