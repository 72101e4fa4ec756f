"""Atomic writes of a run's files: whatever happens, the last good file is there."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from delugeserve.errors import CheckpointError, TrainingError
from delugeserve.system.files import atomic_write

STATE_FILE = "last.ckpt"
"""The state after a run's last complete epoch, to resume from."""

BEST_FILE = "best.safetensors"
"""The network of the epoch with the lowest validation error so far, until the run ends."""

MARK = "part"
"""Fixed, because one run at a time writes to a folder: the next write replaces leftovers."""


def describe_state(folder: Path, epochs: int | None) -> str:
    """Return a sentence that says what a run can be resumed from.

    Args:
        folder: the run's folder.
        epochs: number of complete epochs; None if that is not known.
    """
    state = folder / STATE_FILE
    if not state.is_file() or epochs == 0:
        return "No epoch is saved yet."
    return (
        f"{'The last complete epoch' if epochs is None else f'Epoch {epochs}'} is saved in {state}."
    )


@contextmanager
def saving(folder: Path, epochs: int) -> Iterator[None]:
    """Turn a failed write during a run into an error that says what is saved.

    Args:
        folder: the run's folder.
        epochs: number of complete epochs.

    Raises:
        TrainingError: a file could not be written in the body.
    """
    try:
        yield
    except (OSError, CheckpointError) as error:
        problem = f"The run could not be saved: {error}."
        if isinstance(error, CheckpointError):
            problem = error.problem
        raise TrainingError(
            f"{problem} {describe_state(folder, epochs)}",
            "Free some space or make the folder writable, then resume the run.",
            resumable=True,
        ) from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    with atomic_write(path, MARK) as beside:
        beside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Saves Lightning's state atomically.

    Lightning itself saves to the folder for temporary files and moves the file, which is a copy
    that may end half-way where the two are on different disks.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Save a state.

        Raises:
            TrainingError: it cannot be written; what was there before is untouched.
        """
        path = Path(path)
        with (
            saving(path.parent, checkpoint["epoch"]),
            atomic_write(path, MARK) as beside,
            beside.open("wb") as file,
        ):
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                # PyTorch's error for a full disk; the file's own error is clearer.
                raise OSError(error.__context__ or error) from error
            file.flush()
            os.fsync(file.fileno())

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Load a state.

        Raises:
            CheckpointError: the file is damaged.
        """
        try:
            state: dict[str, Any] = torch.load(path, map_location, weights_only=weights_only)
        except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
            raise CheckpointError(
                f"{path} is damaged ({_first_line(error)}).",
                "Start the run again in another --output.",
            ) from error
        return state


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
