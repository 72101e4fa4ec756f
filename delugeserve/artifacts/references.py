"""Recognise what a path, a name or an address refers to, without opening it.

Every command that takes a model, a checkpoint, a run, a version or a server recognises it here.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from delugeserve.artifacts.checkpoints import shipped_weights
from delugeserve.artifacts.manifest import FILE_NAME
from delugeserve.artifacts.model_config import FILE_NAME as CONFIG
from delugeserve.artifacts.repository import DEFAULT_REPOSITORY, find_models
from delugeserve.errors import InvalidReferenceError, RepositoryError, nearest_path
from delugeserve.zoo import MODELS, find_model

Kind = Literal["weights", "checkpoint", "onnx", "plan", "version", "repository", "endpoint"]

EVALUABLE: frozenset[Kind] = frozenset({"weights", "checkpoint", "onnx", "version", "endpoint"})
"""What a classifier can be opened from; see :mod:`delugeserve.evaluation.subjects`."""

INSPECTABLE: frozenset[Kind] = frozenset(
    {"weights", "checkpoint", "onnx", "plan", "version", "repository"}
)
"""What is on disk."""

_SUFFIXES: dict[str, Kind] = {".safetensors": "checkpoint", ".onnx": "onnx", ".plan": "plan"}
_ADDRESS = re.compile(r"\w+://.*|(\[[\da-fA-F:.]+\]|[\w.-]+):\d+")
_NOUNS: dict[Kind, str] = {
    "checkpoint": "a checkpoint",
    "onnx": "an ONNX file",
    "plan": "a TensorRT plan",
    "version": "an exported version",
    "repository": "a model repository",
    "endpoint": "a server address",
    "weights": "a model name",
}
_FORMS: dict[Kind, str] = {
    "checkpoint": "a checkpoint (.safetensors), a run folder",
    "onnx": "an ONNX file (.onnx)",
    "plan": "a TensorRT plan (.plan)",
    "version": "the folder of an exported version or model",
    "repository": "a model repository",
    "endpoint": "a server address such as localhost:8001",
    "weights": "a model name (see 'delugeserve models')",
}
_TRAINING_STATE = ".ckpt"
_USUAL_FOLDERS: dict[Kind, Path] = {"version": DEFAULT_REPOSITORY, "checkpoint": Path("runs")}


@dataclass(frozen=True)
class Reference:
    """Something to open.

    Attributes:
        kind: ``weights`` for the shipped weights of a model; otherwise the kind of file, folder or
            address.
        value: the model's name, the path or the address. For a run folder it is the path of its
            checkpoint, for a model's folder that of the version that is served.
    """

    kind: Kind
    value: str


def recognise(text: str, kinds: Collection[Kind] = EVALUABLE) -> Reference:
    """Recognise a reference.

    Args:
        text: a path, a server address or a model's name.
        kinds: the kinds that are accepted.

    Raises:
        InvalidReferenceError: it is none of the accepted kinds, or ambiguous.
        RepositoryError: a model's folder lacks the version that it serves.
    """
    path = Path(text)
    try:
        if path.exists():
            if text in MODELS and "weights" in kinds:
                raise _ambiguous(text)
            found = _recognise_folder(path, text) if path.is_dir() else _recognise_file(path)
        elif _ADDRESS.fullmatch(text):
            found = Reference("endpoint", text)
        elif text in MODELS:
            found = Reference("weights", text)
        else:
            raise _missing(text, kinds)
    except OSError as error:
        raise InvalidReferenceError(
            f"{text} cannot be read: {error.strerror or error}.",
            "Check the path and its permissions.",
            text,
        ) from error
    if found is None or found.kind not in kinds:
        raise _not_accepted(text, found, kinds)
    return found


def resolve_checkpoint(text: str | Path) -> Path:
    """Return the checkpoint file that a path or name refers to.

    Args:
        text: a checkpoint, the folder of a run, or the name of a model with shipped weights.

    Raises:
        InvalidReferenceError: it is none of these.
        CheckpointError: no weights of the model ship with the package.
    """
    reference = recognise(str(text), {"weights", "checkpoint"})
    if reference.kind == "weights":
        return shipped_weights(find_model(reference.value))
    return Path(reference.value)


def resolve_version(text: str | Path, repository: Path = DEFAULT_REPOSITORY) -> Path:
    """Return the folder of the exported version that a path or name refers to.

    Args:
        text: the folder of a version or of a model, or the name of a model in the repository.
        repository: where names are looked up.

    Raises:
        InvalidReferenceError: it is none of these.
        RepositoryError: the model's folder lacks the version that it serves.
    """
    path = Path(text)
    stored = repository / path
    # The pictures that a model was trained on are often in a folder of the same name.
    is_version = any((path / name).is_file() for name in (CONFIG, FILE_NAME))
    if len(path.parts) == 1 and not is_version and (stored / CONFIG).is_file():
        path = stored
    return Path(recognise(str(path), {"version"}).value)


def _recognise_file(path: Path) -> Reference | None:
    suffix = path.suffix.lower()
    if suffix == _TRAINING_STATE:
        raise _training_state(path)
    kind = _SUFFIXES.get(suffix)
    return Reference(kind, str(path)) if kind else None


def _recognise_folder(folder: Path, text: str) -> Reference | None:
    if (folder / FILE_NAME).is_file():
        return Reference("version", str(folder))
    if (folder / CONFIG).is_file():
        return Reference("version", str(_served_version(folder)))
    if any(folder.glob(f"*/{CONFIG}")):
        return Reference("repository", str(folder))
    checkpoints = _checkpoints(folder)
    if len(checkpoints) == 1:
        return Reference("checkpoint", str(checkpoints[0]))
    if checkpoints:
        raise InvalidReferenceError(
            f"{folder} holds {len(checkpoints)} checkpoints.",
            f"Give one of: {', '.join(map(str, checkpoints))}.",
            text,
        )
    if any(folder.glob(f"*{_TRAINING_STATE}")):
        raise InvalidReferenceError(
            f"The run in {folder} has no checkpoint yet: its training has not ended.",
            f"Resume it with: delugeserve train --resume {shlex.quote(str(folder))}",
            text,
        )
    return None


def _served_version(folder: Path) -> Path:
    whole = folder.resolve()
    (model,) = find_models(whole.parent, [whole.name])
    if model.version is None:
        raise RepositoryError(
            f"{folder} lacks the version that its {CONFIG} serves.",
            "Export the model again, or give the folder of another version.",
            folder,
        )
    return folder / str(model.version)


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("."))


def _ambiguous(text: str) -> InvalidReferenceError:
    shipped = MODELS[text].weights
    return InvalidReferenceError(
        f"'{text}' is both a model name and a path in this folder.",
        f"Use ./{text} for the path"
        + (f", or {shipped} for the shipped weights." * bool(shipped) or "."),
        text,
    )


def _training_state(path: Path) -> InvalidReferenceError:
    checkpoints = _checkpoints(path.parent)
    return InvalidReferenceError(
        f"{path} is a training state, not a checkpoint.",
        f"Give {checkpoints[0]}."
        if checkpoints
        else "Resume the run, which writes a .safetensors file at its end: "
        f"delugeserve train --resume {shlex.quote(str(path.parent))}",
        str(path),
    )


def _missing(text: str, kinds: Collection[Kind]) -> InvalidReferenceError:
    """The error about a path or name that does not exist, with the nearest one that does."""
    names = MODELS if "weights" in kinds else ()
    nearest = _in_usual_folder(text, kinds) or nearest_path(Path(text), names)
    is_path = len(Path(text).parts) > 1 or Path(text).suffix in (*_SUFFIXES, _TRAINING_STATE)
    if is_path:
        problem, remedy = f"There is no file or folder '{text}'.", "Check the path."
    else:
        problem, remedy = f"There is no file, folder or model '{text}'.", _accepted(kinds)
        if "weights" in kinds:
            address = ", or a server address such as localhost:8001" * ("endpoint" in kinds)
            remedy = f"Give a path or a model name (see: delugeserve models){address}."
    if kinds == {"version"}:
        remedy = "Export the model first: delugeserve export --model NAME"
    return InvalidReferenceError(
        problem, f"Did you mean '{nearest}'?" if nearest else remedy, text, nearest=nearest
    )


def _in_usual_folder(name: str, kinds: Collection[Kind]) -> str | None:
    """Return the path of a run or an exported model of this name in the folder for such."""
    if len(Path(name).parts) != 1 or name in ("..", "/"):
        return None
    for kind, folder in _USUAL_FOLDERS.items():
        if kind in kinds and (folder / name).is_dir():
            return str(folder / name)
    return None


def _not_accepted(
    text: str, found: Reference | None, kinds: Collection[Kind]
) -> InvalidReferenceError:
    if found is None:
        problem = (
            f"The folder {text} holds nothing that can be used here."
            if Path(text).is_dir()
            else f"The file {text} cannot be used here."
        )
        nearest = _in_usual_folder(text, kinds)
        remedy = f"Did you mean '{nearest}'?" if nearest else _accepted(kinds)
        return InvalidReferenceError(problem, remedy, text, nearest=nearest)
    remedy = _accepted(kinds)
    if found.kind == "repository" and "version" in kinds:
        models = sorted(config.parent for config in Path(text).glob(f"*/{CONFIG}"))
        remedy = f"Give one of its models, such as {models[0]}."
    elif found.kind in ("weights", "checkpoint") and kinds == {"version"}:
        option = "model" if found.kind == "weights" else "checkpoint"
        remedy = f"Export it first: delugeserve export --{option} {shlex.quote(text)}"
    return InvalidReferenceError(
        f"{text} is {_NOUNS[found.kind]}, which cannot be used here.",
        remedy,
        text,
        found=found.kind,
    )


def _accepted(kinds: Collection[Kind]) -> str:
    return f"Give {_listed([form for kind, form in _FORMS.items() if kind in kinds])}."


def _listed(items: list[str]) -> str:
    *others, last = items
    return f"{', '.join(others)} or {last}" if others else last
