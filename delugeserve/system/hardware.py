"""The processor and the GPUs of this machine, without torch."""

from __future__ import annotations

import functools
import itertools
import os
import platform
import shutil
import subprocess
from collections.abc import Collection, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from delugeserve.errors import ServerError

_GPU_FIELDS = "name,driver_version,compute_cap,memory.total,index"
_TIMEOUT = 20.0  # seconds; waking an idle driver takes several


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU.

    Attributes:
        name: the model, such as ``NVIDIA L4``.
        driver: version of the driver.
        compute_capability: such as ``8.9``.
        memory: total memory, such as ``23034 MiB``.
        index: its number in nvidia-smi, in PCI bus order.
    """

    name: str
    driver: str
    compute_capability: str
    memory: str
    index: int = 0

    def is_among(self, compute_capabilities: Collection[str], minimum: str | None) -> bool:
        """Return whether it has one of these compute capabilities, or at least the minimum.

        Args:
            compute_capabilities: such as ``("8.6", "8.9")``; ignored if there is a minimum.
            minimum: such as ``8.0``; None if there is none.
        """
        if minimum:
            have, least = (
                tuple(map(int, version.split(".")))
                for version in (self.compute_capability, minimum)
            )
            return have >= least
        return self.compute_capability in compute_capabilities


def describe_capabilities(compute_capabilities: Collection[str], minimum: str | None) -> str:
    """Return the condition that :meth:`Gpu.is_among` checks, such as ``8.0 or later``."""
    return f"{minimum} or later" if minimum else " or ".join(compute_capabilities)


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Return the feature flags that Linux reports for the first core; empty on other systems."""
    for line in _cpuinfo():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


@functools.cache
def cpu_model() -> str:
    """Return the processor's name, as the operating system reports it."""
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_native_bf16() -> bool:
    """Return whether the processor multiplies bf16 natively; emulated bf16 is slower than fp32."""
    return not cpu_flags().isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


@functools.cache
def find_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that nvidia-smi reports; none where there is no nvidia-smi.

    Raises:
        ServerError: nvidia-smi fails.
    """
    lines = _run_nvidia_smi(f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader")
    rows = [[field.strip() for field in line.split(",")] for line in lines]
    for line, row in zip(lines, rows, strict=True):
        if len(row) != len(_GPU_FIELDS.split(",")) or not row[4].isdecimal():
            raise _gpu_failure(line)
    return tuple(
        Gpu(name, driver, capability, memory, int(index))
        for name, driver, capability, memory, index in rows
    )


def usable_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that CUDA may use, in CUDA's order if :func:`order_gpus` was called first.

    Plain indices in CUDA_VISIBLE_DEVICES are followed as CUDA does: an index that does not exist
    hides those after it, see
    https://docs.nvidia.com/cuda/cuda-c-programming-guide/index.html#env-vars. Any other entry, such
    as a UUID or a MIG device, is not looked up, and every GPU is returned. A broken driver has no
    usable GPU.
    """
    try:
        gpus = find_gpus()
    except ServerError:
        return ()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return gpus
    entries = [entry.strip() for entry in visible.split(",")]
    if any(entry.startswith(("GPU-", "MIG-")) for entry in entries):
        return gpus
    return _select(entries, gpus)


def order_gpus(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make CUDA number the GPUs as nvidia-smi does; by default it starts with the fastest.

    CUDA reads this once, so call this before anything that initialises CUDA. A value that the user
    has set is kept.

    Args:
        environment: the environment of the process that will use CUDA.
    """
    environment.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


def describe() -> str:
    """Return one line that describes this machine, to print next to a measured number."""
    bf16 = "native bf16" if has_native_bf16() else "no native bf16"
    system = f"{platform.system()} {platform.machine()}"
    count = usable_cores()
    cores = "1 core" if count == 1 else f"{count} cores"
    return f"{cpu_model()}, {cores}, {bf16}, {system}"


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _select(entries: Sequence[str], gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """Return the GPUs with these indices; an index that does not exist ends the list."""
    by_index = {str(gpu.index): gpu for gpu in gpus}
    if len(set(entries)) < len(entries):  # CUDA rejects duplicates
        return ()
    known = itertools.takewhile(by_index.__contains__, entries)
    return tuple(by_index[entry] for entry in known)


def _run_nvidia_smi(*options: str) -> list[str]:
    """Return the lines that nvidia-smi prints; none where there is no nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, *options], capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _gpu_failure(str(error)) from error
    if done.returncode:
        printed = (done.stdout + done.stderr).strip().splitlines() or ["no error message"]
        raise _gpu_failure(printed[0])
    return done.stdout.splitlines()


def _gpu_failure(reason: str) -> ServerError:
    return ServerError(
        f"nvidia-smi failed ({reason.rstrip('. ')}).",
        "Restart the machine if its driver was just updated; otherwise reinstall the driver.",
    )
