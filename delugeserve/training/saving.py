"""Files of a run, each written beside its place and then renamed into it.

At every moment, whatever happens to the process or the disk, the last good file is there.
"""

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
"""The state after a run's last whole epoch, from which it can go on."""


MARK = "part"
"""One run at a time writes to a folder, and its states are large: none is left lying."""


def describe_state(folder: Path, epochs: int) -> str:
    """Say in one sentence from where a run could go on.

    Args:
        folder: the run's.
        epochs: how many of its epochs are whole.
    """
    state = folder / STATE_FILE
    if epochs and state.is_file():
        return f"The state after epoch {epochs} is whole, in {state}."
    return "No state was saved before."


@contextmanager
def saving(folder: Path, epochs: int) -> Iterator[None]:
    """Say of a file of a run that is going on that it cannot be written.

    Args:
        folder: see :func:`describe_state`.
        epochs: likewise.

    Raises:
        TrainingError: it cannot.
    """
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"The run could not be saved: {error}. {describe_state(folder, epochs)}",
            "Free some space, then run the same command again, 'train' with --resume.",
        ) from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    with atomic_write(path, MARK) as beside:
        beside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Saves Lightning's state beside its place.

    Lightning itself saves to the folder for temporary files and moves that to its place, which is a
    copy, and may end half-way, where the two are on different disks.
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
                # What PyTorch makes of a full disk; the file's own error says it better.
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
                f"{path} is not a whole state of a run ({_first_line(error)}).",
                "Start the run again in another --output.",
            ) from error
        return state


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
