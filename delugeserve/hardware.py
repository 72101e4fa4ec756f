"""What this machine's processor and GPUs can do, without torch."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from delugeserve.errors import ServerError

_GPU_FIELDS = "name,driver_version,compute_cap,memory.total"
_TIMEOUT = 20.0  # seconds; a driver that has to be woken takes some


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU.

    Attributes:
        name: such as ``NVIDIA L4``.
        driver: version of the driver.
        compute_capability: such as ``8.9``.
        memory: such as ``23034 MiB``.
    """

    name: str
    driver: str
    compute_capability: str
    memory: str

    def is_among(self, compute_capabilities: Collection[str], minimum: str | None) -> bool:
        """Whether it has one of some compute capabilities or, where there is a minimum, that."""
        if minimum:
            have, least = (
                tuple(map(int, version.split(".")))
                for version in (self.compute_capability, minimum)
            )
            return have >= least
        return self.compute_capability in compute_capabilities


def name_capabilities(compute_capabilities: Collection[str], minimum: str | None) -> str:
    """Put into words what :meth:`Gpu.is_among` looks for."""
    return f"{minimum} or later" if minimum else " or ".join(compute_capabilities)


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
def find_gpus() -> tuple[Gpu, ...]:
    """The GPUs of this machine, as nvidia-smi reports them; none where there is no nvidia-smi.

    Raises:
        ServerError: nvidia-smi is there and cannot tell.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _gpu_failure(str(error)) from error
    rows = [[field.strip() for field in line.split(",")] for line in done.stdout.splitlines()]
    if done.returncode or any(len(row) != len(_GPU_FIELDS.split(",")) for row in rows):
        said = (done.stdout + done.stderr).strip().splitlines() or ["it said nothing"]
        raise _gpu_failure(said[0])
    return tuple(Gpu(*row) for row in rows)


def usable_gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA may use; none if they are kept from it, or if the driver is broken."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return ()
    try:
        return find_gpus()
    except ServerError:
        return ()


def describe() -> str:
    """One line that names the machine beside a measured number."""
    bf16 = "native bf16" if has_native_bf16() else "no native bf16"
    system = f"{platform.system()} {platform.machine()}"
    number = usable_cores()
    cores = "1 core" if number == 1 else f"{number} cores"
    return f"{cpu_model()}, {cores}, {bf16}, {system}"


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _gpu_failure(reason: str) -> ServerError:
    return ServerError(
        f"nvidia-smi cannot report the GPU ({reason.rstrip('. ')}).",
        "Install NVIDIA's driver again, or restart the machine if it was just updated.",
    )
