"""NVIDIA GPUs, as nvidia-smi reports them: without CUDA, torch or TensorRT."""

from __future__ import annotations

import functools
import shutil
import subprocess
from dataclasses import dataclass

from delugeserve.errors import ServerError

_FIELDS = "name,driver_version,compute_cap,memory.total"
_TIMEOUT = 20.0  # seconds; a driver that has to be woken takes some


@dataclass(frozen=True)
class Gpu:
    """A GPU.

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


@functools.cache
def find_gpus() -> tuple[Gpu, ...]:
    """The GPUs of this machine; none where there is no nvidia-smi.

    Raises:
        ServerError: nvidia-smi is there and cannot tell.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, f"--query-gpu={_FIELDS}", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failure(str(error)) from error
    rows = [[field.strip() for field in line.split(",")] for line in done.stdout.splitlines()]
    if done.returncode or any(len(row) != len(_FIELDS.split(",")) for row in rows):
        said = (done.stdout + done.stderr).strip().splitlines() or ["it said nothing"]
        raise _failure(said[0])
    return tuple(Gpu(*row) for row in rows)


def _failure(reason: str) -> ServerError:
    return ServerError(
        f"nvidia-smi cannot report the GPU ({reason.rstrip('. ')}).",
        "Install NVIDIA's driver again, or restart the machine if it was just updated.",
    )
