"""The command that continues a run, ready to paste."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from delugeserve.errors import TrainingError


@contextmanager
def say_how_to_resume(*flags: str) -> Iterator[None]:
    """Complete the remedy of an error that ends a run: the command of this process, to paste.

    Args:
        flags: what the command needs in addition to resume a run.
    """
    try:
        yield
    except TrainingError as error:
        command = _this_command(flags if error.resumable else ())
        if error.remedy.endswith(("resume the run.", "start again.")):
            error.remedy = f"{error.remedy.removesuffix('.')}: {command}"
        raise


def _this_command(flags: tuple[str, ...]) -> str:
    from delugeserve.training.distributed import current_world

    world = current_world()
    program = ["delugeserve"]
    if world.size > 1:
        nodes = world.size // world.local_size
        program = ["torchrun", *(["--nnodes", str(nodes)] if nodes > 1 else [])]
        program += ["--nproc-per-node", str(world.local_size), "-m", "delugeserve"]
    arguments = sys.argv[1:]
    return shlex.join([*program, *arguments, *(f for f in flags if f not in arguments)])
