"""The checkpoint that a run starts from, and its record in the run's folder.

It is read once. A resumed run takes weights from its own state and the history from the record, so
a file that was replaced or removed in the meantime changes nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from delugeserve import zoo
from delugeserve.artifacts.references import resolve_checkpoint
from delugeserve.data.labels import list_names, simplify
from delugeserve.errors import CheckpointError
from delugeserve.networks.build import build_network
from delugeserve.networks.checkpoint import Checkpoint, load_checkpoint
from delugeserve.system.files import sha256
from delugeserve.training.saving import STATE_FILE, write_json
from delugeserve.zoo import ModelSpec

INITIAL_FILE = "initial.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InitialCheckpoint:
    """Where a run's first weights come from.

    Attributes:
        path: the checkpoint.
        sha256: of the file, in hexadecimal.
        recipe: how it was trained.
        metrics: its errors on the test split.
        kept_classes: the classes whose rows of the classifier were kept.
    """

    path: str
    sha256: str
    recipe: Mapping[str, Any]
    metrics: Mapping[str, Any]
    kept_classes: Sequence[str] = ()

    @property
    def history(self) -> dict[str, Any]:
        """What the new checkpoint's header says of it."""
        return {"recipe": self.recipe, "metrics": self.metrics}


def read_initial(
    reference: str, spec: ModelSpec, output: Path, *, seed: int, resume: bool
) -> tuple[InitialCheckpoint, Mapping[str, Tensor] | None]:
    """Read the checkpoint that a run starts from.

    The rows of the classifier are matched by the names of their classes; those of other classes
    are initialised anew. Image size and normalisation may differ.

    Args:
        reference: a checkpoint of the same architecture, a run folder, or a model with shipped
            weights.
        spec: the network to train.
        output: the run's folder.
        seed: of the weights that are initialised anew.
        resume: whether the run was started before. If its state was saved, the checkpoint is not
            read.

    Returns:
        Where the weights come from, and the weights; None for a run that has a state.

    Raises:
        InvalidReferenceError: there is no such checkpoint.
        CheckpointError: it is missing, damaged or of another architecture, or it has changed since
            the run was started and no epoch of that is saved.
    """
    recorded = _read_record(output) if resume else None
    if recorded is not None and (output / STATE_FILE).is_file():
        return recorded, None
    path = resolve_checkpoint(reference)
    checkpoint = load_checkpoint(path)
    check_architecture(path, checkpoint.spec, spec)
    state, kept = fit_classifier(checkpoint, spec, seed=seed)
    found = InitialCheckpoint(
        str(path), sha256(path), checkpoint.recipe, checkpoint.metrics, tuple(kept)
    )
    if recorded is not None and found.sha256 != recorded.sha256:
        raise CheckpointError(
            f"{path} has changed since the run in {output} was started.",
            "Put the first file back, or start again in another --output.",
        )
    if checkpoint.spec.task.class_names != spec.task.class_names:
        _log.info("%s", _describe_classifier(spec.task.class_names, kept))
    return found, state


def check_architecture(path: Path, found: ModelSpec, expected: ModelSpec) -> None:
    """Check that the weights of one network fit the layers of another.

    Raises:
        CheckpointError: they do not.
    """
    layers, wanted = (replace(one.architecture, name="") for one in (found, expected))
    if layers != wanted:
        raise CheckpointError(
            f"{path} holds a network of the architecture '{found.architecture.name}', not"
            f" '{expected.architecture.name}'.",
            f"Use --model {_model_of(found)}, or give another --initial-checkpoint.",
            path,
            expected=expected.architecture.name,
            found=found.architecture.name,
        )


def fit_classifier(
    checkpoint: Checkpoint, spec: ModelSpec, *, seed: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Return a checkpoint's weights with a classifier for the classes of another task.

    Args:
        checkpoint: a network of the same architecture.
        spec: the network that the weights are for.
        seed: of the rows that are initialised anew.

    Returns:
        The state, and the names of the classes whose rows were kept.
    """
    state = dict(checkpoint.state)
    rows = {simplify(name): row for row, name in enumerate(checkpoint.spec.task.class_names)}
    pairs = [(row, rows.get(simplify(name))) for row, name in enumerate(spec.task.class_names)]
    fresh = build_network(spec, seed=seed).state_dict()
    for name in (name for name in fresh if name.endswith(("linear.weight", "linear.bias"))):
        tensor = fresh[name].clone()
        for row, before in pairs:
            if before is not None:
                tensor[row] = state[name][before]
        state[name] = tensor
    return state, [spec.task.class_names[row] for row, before in pairs if before is not None]


def _describe_classifier(class_names: tuple[str, ...], kept: list[str]) -> str:
    if not kept:
        return f"head: made anew, {len(class_names)} classes"
    new = [name for name in class_names if name not in kept]
    anew = f", made anew: {list_names(new)}" if new else ""
    return f"head: {len(kept)} of {len(class_names)} classes kept{anew}"


def _model_of(spec: ModelSpec) -> str:
    """The registered model of a network's architecture."""
    layers = replace(spec.architecture, name="")
    return next(
        (m.name for m in zoo.MODELS.values() if replace(m.architecture, name="") == layers),
        spec.name,
    )


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
