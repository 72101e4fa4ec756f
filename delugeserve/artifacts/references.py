"""What a user means by a path, an address or a name: something of ours, not opened yet."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from delugeserve.errors import RepositoryError, UsageError
from delugeserve.zoo import MODELS

Kind = Literal["weights", "checkpoint", "onnx", "plan", "version", "repository", "endpoint"]

EVALUABLE: frozenset[Kind] = frozenset({"weights", "checkpoint", "onnx", "version", "endpoint"})

_KINDS_OF_FILES: dict[str, Kind] = {
    ".safetensors": "checkpoint",
    ".onnx": "onnx",
    ".plan": "plan",
}
_ADDRESS = re.compile(r"\w+://.*|(\[[\da-fA-F:.]+\]|[\w.-]+):\d+")
_FORMS: dict[Kind, str] = {
    "checkpoint": "a checkpoint (.safetensors)",
    "onnx": "an ONNX file (.onnx)",
    "plan": "a TensorRT plan (.plan)",
    "version": "the folder of an exported version",
    "repository": "a model repository",
    "endpoint": "a server's address such as localhost:8001",
    "weights": "a model's name (see 'delugeserve models')",
}


@dataclass(frozen=True)
class Reference:
    """Something to evaluate or to look into.

    Attributes:
        kind: what it is: a model's shipped weights, a checkpoint, an ONNX file, a TensorRT plan,
            the folder of an exported version, a whole model repository, or a server.
        value: name, path or address.
    """

    kind: Kind
    value: str


def recognise(text: str, kinds: Collection[Kind] = EVALUABLE) -> Reference:
    """Find out what a user means.

    Args:
        text: the path of a checkpoint, an ONNX file, a plan, a version's, a model's or a
            repository's folder; a server's address; or the name of a model with shipped weights.
        kinds: what will do.

    Raises:
        UsageError: it is none of these, or may be two.
    """
    path = Path(text)
    try:
        if path.exists():
            return _recognise_path(path, text, kinds)
        if _ADDRESS.fullmatch(text) and "endpoint" in kinds:
            return Reference("endpoint", text)
        if text in MODELS and "weights" in kinds:
            return Reference("weights", text)
        raise UsageError(f"There is no file, folder or model '{text}'.", _suggest(path, kinds))
    except OSError as error:
        raise UsageError(
            f"{text} cannot be read: {error.strerror or error}.",
            "Check the path and its permissions.",
        ) from error


def _recognise_path(path: Path, text: str, kinds: Collection[Kind]) -> Reference:
    if text in MODELS and "weights" in kinds:
        shipped = MODELS[text].weights
        raise UsageError(
            f"'{text}' is a model's name, and it lies here too.",
            f"Write ./{text} for what lies here"
            + (f", or {shipped} for the shipped weights." if shipped else "."),
        )
    if path.is_dir():
        return _recognise_folder(path, kinds)
    kind = _KINDS_OF_FILES.get(path.suffix.lower())
    if kind is None or kind not in kinds:
        files = [
            _FORMS[kind].partition(" (")[0] for kind in _KINDS_OF_FILES.values() if kind in kinds
        ]
        if not files:
            raise UsageError(f"{path} is not a folder.", _accepted(kinds))
        *others, last = files
        raise UsageError(f"{path} is neither {', '.join(others)} nor {last}.", _accepted(kinds))
    return Reference(kind, str(path))


def _recognise_folder(folder: Path, kinds: Collection[Kind]) -> Reference:
    """The folder itself if it holds a version; if it holds a model, the version that is served."""
    from delugeserve.artifacts.repository import find_models

    if (folder / "manifest.json").is_file():
        return Reference("version", str(folder))
    if (folder / "config.pbtxt").is_file():
        whole = folder.resolve()
        (model,) = find_models(whole.parent, [whole.name])
        if model.version is None:
            raise RepositoryError(
                f"{folder} lacks the version that its config.pbtxt serves.",
                "Export the model again, or give the folder of another version.",
            )
        return Reference("version", str(folder / str(model.version)))
    models = sorted(config.parent for config in folder.glob("*/config.pbtxt"))
    if models and "repository" in kinds:
        return Reference("repository", str(folder))
    if models:
        raise UsageError(f"{folder} is a whole model repository.", f"Give {models[0]}, say.")
    raise UsageError(f"The folder {folder} holds no exported version.", _accepted(kinds))


def _suggest(path: Path, kinds: Collection[Kind]) -> str:
    """The nearest of the models' names and of what lies in the same folder, if one is near."""
    folder = path.parent
    names = [str(folder / child.name) for child in folder.iterdir()] if folder.is_dir() else []
    if "weights" in kinds:
        names += MODELS
    nearest = difflib.get_close_matches(str(path), names, n=1, cutoff=0.75)
    return f"Did you mean '{nearest[0]}'?" if nearest else _accepted(kinds)


def _accepted(kinds: Collection[Kind]) -> str:
    *others, last = [form for kind, form in _FORMS.items() if kind in kinds]
    return f"Give {', '.join(others)}, or {last}." if others else f"Give {last}."
