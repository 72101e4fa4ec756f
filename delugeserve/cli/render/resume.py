"""The command that continues a run, ready to paste."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from delugeserve.errors import TrainingError


@contextmanager
def say_how_to_resume(run: Path | None = None) -> Iterator[None]:
    """Complete the remedy of an error that ends a run with the command to paste.

    Args:
        run: the folder of the run to resume; None if the command of this process does that.
    """
    try:
        yield
    except TrainingError as error:
        arguments = sys.argv[1:]
        if run is not None and error.resumable:
            arguments = ["train", "--resume", str(run)]
        if error.remedy.endswith(("resume the run.", "start again.")):
            error.remedy = f"{error.remedy.removesuffix('.')}: {_command(arguments)}"
        raise


def _command(arguments: list[str]) -> str:
    from delugeserve.training.distributed import current_world

    world = current_world()
    program = ["delugeserve"]
    if world.size > 1:
        nodes = world.size // world.local_size
        program = ["torchrun", *(["--nnodes", str(nodes)] if nodes > 1 else [])]
        program += ["--nproc-per-node", str(world.local_size), "-m", "delugeserve"]
    return shlex.join([*program, *arguments])
