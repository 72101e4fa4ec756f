"""What this machine's processor and GPUs can do, without torch."""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Collection, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from delugeserve.errors import ServerError

_GPU_FIELDS = "name,driver_version,compute_cap,memory.total,index,uuid"
_TIMEOUT = 20.0  # seconds; a driver that has to be woken takes some


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU.

    Attributes:
        name: such as ``NVIDIA L4``.
        driver: version of the driver.
        compute_capability: such as ``8.9``.
        memory: such as ``23034 MiB``.
        index: its number as nvidia-smi counts, along the PCI bus.
        uuid: such as ``GPU-5a2c8a3d-...``.
    """

    name: str
    driver: str
    compute_capability: str
    memory: str
    index: int = 0
    uuid: str = ""

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
    lines = _ask_driver(f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader")
    rows = [[field.strip() for field in line.split(",")] for line in lines]
    for line, row in zip(lines, rows, strict=True):
        if len(row) != len(_GPU_FIELDS.split(",")) or not row[4].isdecimal():
            raise _gpu_failure(line)
    return tuple(
        Gpu(name, driver, capability, memory, int(index), uuid)
        for name, driver, capability, memory, index, uuid in rows
    )


def usable_gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA may use, in its own order, if that is the one of :func:`order_gpus`.

    None if they are kept from it, or if the driver is broken. CUDA reads CUDA_VISIBLE_DEVICES so:
    https://docs.nvidia.com/cuda/cuda-c-programming-guide/index.html#env-vars
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        gpus = find_gpus()
        if visible is None:
            return gpus
        entries = [entry.strip() for entry in visible.split(",")]
        if len(set(entries)) < len(entries):
            return ()
        chosen: list[Gpu] = []
        for entry in entries:
            gpu = _named(entry, gpus)
            if gpu is None:  # nor does CUDA see those that stand behind it
                break
            chosen.append(gpu)
            if entry.startswith("MIG-"):  # of such parts, it takes one
                break
    except ServerError:
        return ()
    return tuple(dict.fromkeys(chosen))


def order_gpus(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let CUDA count the GPUs as nvidia-smi does; by itself it begins with the fastest.

    It reads this once, so this must come before whatever starts it. What the user has set stays.

    Args:
        environment: of the process that will use CUDA.
    """
    environment.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


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


def _named(entry: str, gpus: tuple[Gpu, ...]) -> Gpu | None:
    """The GPU that an entry of CUDA_VISIBLE_DEVICES means: by index, or the start of a UUID."""
    if entry.isdecimal():
        return next((gpu for gpu in gpus if gpu.index == int(entry)), None)
    owners = {gpu.uuid: gpu for gpu in gpus}
    if entry.startswith("MIG-"):
        owners = {part: gpu for part, uuid in _mig_parts().items() if (gpu := owners.get(uuid))}
    elif not entry.startswith("GPU-"):
        return None
    found = {gpu for uuid, gpu in owners.items() if uuid.startswith(entry)}
    return found.pop() if len(found) == 1 else None


@functools.cache
def _mig_parts() -> dict[str, str]:
    """UUIDs of the parts that GPUs are divided into, each with its GPU's.

    Raises:
        ServerError: nvidia-smi is there and cannot tell.
    """
    parts, owner = {}, ""
    for line in _ask_driver("--list-gpus"):
        match = re.search(r"UUID: ((GPU|MIG)-[^)]+)", line)
        if match and match[2] == "GPU":
            owner = match[1]
        elif match:
            parts[match[1]] = owner
    return parts


def _ask_driver(*options: str) -> list[str]:
    """The lines that nvidia-smi prints; none where there is no nvidia-smi."""
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
        said = (done.stdout + done.stderr).strip().splitlines() or ["it said nothing"]
        raise _gpu_failure(said[0])
    return done.stdout.splitlines()


def _gpu_failure(reason: str) -> ServerError:
    return ServerError(
        f"nvidia-smi cannot report the GPU ({reason.rstrip('. ')}).",
        "Install NVIDIA's driver again, or restart the machine if it was just updated.",
    )
