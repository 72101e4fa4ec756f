"""Check Python, operating system, CPU, memory and GPU."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import sys
from collections.abc import Iterator

from delugeserve.doctor.findings import Finding, Status
from delugeserve.errors import ServerError
from delugeserve.system import hardware
from delugeserve_client.proxies import proxy_of_environment

# Instruction sets that make inference faster, as Linux names them.
_FEATURES = {
    "x86_64": (
        "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8",
    ),
    "aarch64": ("asimd", "i8mm", "bf16", "sve"),
}  # fmt: skip
_LOOPBACK = ("localhost", "127.0.0.1")
_NEEDED_FOR_SPEED = frozenset({"avx2", "asimd"})


def check_machine() -> Iterator[Finding]:
    """Check the machine."""
    yield _finding("Python", f"{platform.python_version()} at {sys.prefix}")
    yield _finding("system", f"{_system()}, {' '.join(platform.libc_ver()) or 'no glibc'}")
    yield _finding("CPU", f"{hardware.cpu_model()}, {hardware.usable_cores()} usable cores")
    yield _features()
    yield _finding("memory", _memory())
    yield from _gpus()
    yield from _proxy()


def _features() -> Finding:
    known = _FEATURES.get(platform.machine(), ())
    flags = hardware.cpu_flags()
    present = [name for name in known if name in flags]
    missing = [name for name in known if name not in flags]
    if not flags:
        return _finding("CPU features", "unknown: this system does not list them", "absent")
    text = (
        f"{' '.join(present) or 'no vector instructions'}"
        f"{'; without ' + ' '.join(missing) if missing else ''}"
        f"; bf16 is {'native' if hardware.has_native_bf16() else 'emulated, slower than fp32'}"
    )
    if known and _NEEDED_FOR_SPEED.isdisjoint(flags):
        return _finding(
            "CPU features",
            f"{text}; inference is several times slower than with AVX2",
            "warning",
            "For fast inference, use a CPU with AVX2 or, on ARM, with Advanced SIMD.",
        )
    return _finding("CPU features", text)


def _gpus() -> Iterator[Finding]:
    try:
        gpus = hardware.find_gpus()
    except ServerError as error:
        yield _finding("GPU", error.problem, "problem", error.remedy)
        return
    if not gpus:
        yield _finding("GPU", "no NVIDIA GPU (there is no nvidia-smi)", "absent")
    usable = hardware.usable_gpus()
    for gpu in gpus:
        yield _finding(
            "GPU",
            f"{gpu.name}, {gpu.memory}, driver {gpu.driver}, "
            f"compute capability {gpu.compute_capability}"
            + ("" if gpu in usable else "; hidden by CUDA_VISIBLE_DEVICES"),
        )
    if gpus and (torch := _version("torch")) and torch.endswith("+cpu"):
        yield _finding(
            "torch",
            f"torch {torch} is a CPU build and does not use the GPU",
            "warning",
            "To train on the GPU, install a CUDA build: https://pytorch.org/get-started",
        )


def _proxy() -> Iterator[Finding]:
    proxy = proxy_of_environment()
    if proxy is None:
        return
    text = f"gRPC requests to other machines go through {proxy}"
    direct = [host for host in _LOOPBACK if proxy.is_bypassed(host)]
    if len(direct) == len(_LOOPBACK):
        yield _finding("proxy", text)
        return
    hosts = ",".join(filter(None, [os.environ.get(proxy.bypass, ""), *_LOOPBACK]))
    yield _finding(
        "proxy",
        f"{text}; those of programs other than delugeserve do so even to this machine",
        "warning",
        f"Run: export {proxy.bypass}={shlex.quote(hosts)}",
    )


def _system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = f"{platform.system()} {platform.release()}"
    return f"{name}, {platform.machine()}"


def _memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return "unknown"
    return f"{total / 2**30:.1f} GiB"


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _finding(subject: str, text: str, status: Status = "ok", remedy: str | None = None) -> Finding:
    return Finding("machine", subject, status, text, remedy)
