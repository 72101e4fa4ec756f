"""The checkpoint that a run starts from, and its record in the run's folder.

It is read once. A resumed run takes weights from its own state and the history from the record, so
a file that was replaced or removed in the meantime changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from delugeserve.artifacts.references import resolve_checkpoint
from delugeserve.errors import CheckpointError
from delugeserve.networks.checkpoint import load_checkpoint
from delugeserve.system.files import sha256
from delugeserve.training.saving import STATE_FILE, write_json
from delugeserve.zoo import ModelSpec

INITIAL_FILE = "initial.json"


@dataclass(frozen=True)
class InitialCheckpoint:
    """Where a run's first weights come from.

    Attributes:
        path: the checkpoint.
        sha256: of the file, in hexadecimal.
        recipe: how it was trained.
        metrics: its errors on the test split.
    """

    path: str
    sha256: str
    recipe: Mapping[str, Any]
    metrics: Mapping[str, Any]

    @property
    def history(self) -> dict[str, Any]:
        """What the new checkpoint's header says of it."""
        return {"recipe": self.recipe, "metrics": self.metrics}


def read_initial(
    reference: str, spec: ModelSpec, output: Path, *, resume: bool
) -> tuple[InitialCheckpoint, Mapping[str, Tensor] | None]:
    """Read the checkpoint that a run starts from.

    Args:
        reference: a checkpoint of the same model, a run folder, or a model with shipped weights.
        spec: the model.
        output: the run's folder.
        resume: whether the run was started before. If its state was saved, the checkpoint is not
            read.

    Returns:
        Where the weights come from, and the weights; None for a run that has a state.

    Raises:
        InvalidReferenceError: there is no such checkpoint.
        CheckpointError: it is missing, damaged or of another model, or it has changed since the
            run was started and no epoch of that is saved.
    """
    recorded = _read_record(output) if resume else None
    if recorded is not None and (output / STATE_FILE).is_file():
        return recorded, None
    path = resolve_checkpoint(reference)
    checkpoint = load_checkpoint(path, spec)
    found = InitialCheckpoint(str(path), sha256(path), checkpoint.recipe, checkpoint.metrics)
    if recorded is not None and found.sha256 != recorded.sha256:
        raise CheckpointError(
            f"{path} has changed since the run in {output} was started.",
            "Put the first file back, or start again in another --output.",
        )
    return found, checkpoint.state


def write_record(output: Path, initial: InitialCheckpoint) -> None:
    """Write ``initial.json``.

    Raises:
        OSError: it cannot be written.
    """
    write_json(output / INITIAL_FILE, asdict(initial))


def _read_record(output: Path) -> InitialCheckpoint | None:
    """Read ``initial.json``; None for a run of a version that did not write it."""
    path = output / INITIAL_FILE
    if not path.is_file():
        return None
    try:
        return InitialCheckpoint(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}).", "Start again in another --output."
        ) from error
