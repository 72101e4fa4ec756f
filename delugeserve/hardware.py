"""What this machine's processor and GPUs can do, without torch."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU.

    Attributes:
        name: as NVIDIA calls it.
        compute_capability: such as ``8.6``.
    """

    name: str
    compute_capability: str


@functools.cache
def cpu_flags() -> frozenset[str]:
    """The feature flags Linux reports of the first core; empty elsewhere."""
    for line in _cpuinfo():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


@functools.cache
def cpu_model() -> str:
    """The processor's name, as the operating system gives it."""
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_native_bf16() -> bool:
    """Whether the processor multiplies bf16 natively; emulated, it is slower than fp32."""
    return not cpu_flags().isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


@functools.cache
def nvidia_gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that the driver's ``nvidia-smi`` lists; none if CUDA is kept from them."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return ()
    query = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = (line.rpartition(",") for line in answer.stdout.splitlines())
    return tuple(Gpu(name.strip(), capability.strip()) for name, comma, capability in rows if comma)


def describe() -> str:
    """One line that names the machine beside a measured number."""
    bf16 = "native bf16" if has_native_bf16() else "no native bf16"
    system = f"{platform.system()} {platform.machine()}"
    return f"{cpu_model()}, {usable_cores()} cores, {bf16}, {system}"


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
