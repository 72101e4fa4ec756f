"""Which part of a machine a server runs on: a GPU, or the cores of a processor socket."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from delugeserve.errors import UsageError
from delugeserve.system.hardware import usable_gpus

Spread = Literal["gpus", "sockets"]

# https://docs.kernel.org/admin-guide/cputopology.html
_SOCKET = "/sys/devices/system/cpu/cpu{core}/topology/physical_package_id"


@dataclass(frozen=True)
class Placement:
    """A part of a machine.

    Attributes:
        name: how messages call it, such as ``GPU 1``.
        gpu: the only GPU that CUDA shows, as CUDA_VISIBLE_DEVICES names it; None for all.
        cores: the cores to run on; None for all.
    """

    name: str
    gpu: str | None = None
    cores: frozenset[int] | None = None

    @contextlib.contextmanager
    def on_cores(self) -> Iterator[None]:
        """Run this thread, and the processes that it starts in the block, on the cores."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cores or before)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)


EVERYWHERE = Placement("all of the machine")


def find_placements(spread: Spread | None) -> tuple[Placement, ...]:
    """Return the parts of this machine that servers are spread over.

    Args:
        spread: the kind of part; None for the whole machine.

    Raises:
        UsageError: there are fewer than two such parts.
    """
    if spread is None:
        return (EVERYWHERE,)
    found = _gpus() if spread == "gpus" else _sockets()
    if len(found) < 2:
        kind = "GPU that CUDA may use" if spread == "gpus" else "socket whose cores may be used"
        count = "no" if not found else "only one"
        raise UsageError(
            f"There is {count} {kind} here, so servers cannot be spread over several.",
            f"Leave out --spread {spread}.",
        )
    return found


def _gpus() -> tuple[Placement, ...]:
    return tuple(Placement(f"GPU {gpu.index}", gpu=str(gpu.index)) for gpu in usable_gpus())


def _sockets() -> tuple[Placement, ...]:
    cores = defaultdict(set)
    for core in os.sched_getaffinity(0):
        with contextlib.suppress(OSError):  # a virtual machine may not say
            cores[int(Path(_SOCKET.format(core=core)).read_text())].add(core)
    return tuple(Placement(f"socket {n}", cores=frozenset(cores[n])) for n in sorted(cores))
