"""The library of the kernels in ``native.cpp``: compiled in seconds, once per machine, and loaded.

:mod:`delugeserve.networks.native` tells what the kernels compute.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from delugeserve.errors import Failure
from delugeserve.system.cache import cache_folder, write_cache
from delugeserve.system.hardware import cpu_flags, cpu_model

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
"""Types of images that the kernels are compiled for, with their names there."""

_SOURCE = Path(__file__).with_name("native.cpp")
# No -ffast-math: a library linked with it would flush denormal numbers to zero everywhere.
_FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-Wno-psabi"),
)

_POINTER, _INT = ctypes.c_void_p, ctypes.c_int
_SIZES = (ctypes.c_int64, _INT, _INT, _INT)
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "norm_forward": (_POINTER, *_SIZES, ctypes.c_double, *[_POINTER] * 2, _INT, *[_POINTER] * 3),
    "norm_backward": (
        *[_POINTER] * 2,
        *_SIZES,
        ctypes.c_double,
        *[_POINTER] * 4,
        _INT,
        *[_POINTER] * 3,
    ),
    "weighted_sum": (_POINTER, _INT, *_SIZES, *[_POINTER] * 3),
    "outputs_backward": (_POINTER, _INT, _POINTER, *_SIZES, ctypes.c_double, *[_POINTER] * 6),
}


@functools.cache
def call(name: str, dtype: torch.dtype) -> Callable[..., None]:
    """Return a kernel for images of a type in :data:`DTYPES`."""
    function = getattr(library(), f"{name}_{DTYPES[dtype]}")
    function.argtypes, function.restype = _ARGUMENTS[name], None
    kernel: Callable[..., None] = function
    return kernel


@functools.cache
def library() -> ctypes.CDLL:
    """Load the kernels; compile them first if this machine has not yet.

    The library is kept in the cache folder. Its name has a hash of the source, the compiler and the
    processor, so a home folder that machines share is safe. A library that cannot be loaded from
    there, such as a damaged one or one on a file system without execution, is compiled anew.

    Raises:
        Failure: the compiler fails, or its library cannot be loaded.
    """
    compiler = os.environ.get("CXX", "g++")
    facts = (compiler, *_FLAGS, cpu_model(), *sorted(cpu_flags()))
    key = hashlib.sha256(_SOURCE.read_bytes() + "\0".join(facts).encode()).hexdigest()[:16]
    cached = cache_folder() / f"native-{key}.so"
    if cached.is_file():
        with suppress(OSError):
            return ctypes.CDLL(str(cached))
    # Processes that compile at once each load their own; the last one's is kept.
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "native.so"
        _compile(compiler, built)
        try:
            loaded = ctypes.CDLL(str(built))  # it stays after its file is removed
        except OSError as error:
            raise Failure(
                f"The fused kernels cannot be loaded: {error}.",
                "Set TMPDIR to a folder from which files can be executed, or omit --fuse-sums.",
            ) from error
        write_cache(cached, built.read_bytes())
        return loaded


def _compile(compiler: str, target: Path) -> None:
    command = [compiler, *_FLAGS, str(_SOURCE), "-o", str(target)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        reason = str(error.strerror)
    else:
        if not done.returncode:
            return
        reason = done.stderr.strip()[-500:]
    raise Failure(
        f"{compiler} cannot compile the fused kernels: {reason}",
        "Install g++ 11 or later, or omit --fuse-sums.",
    )
