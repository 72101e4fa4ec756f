"""What a user means by a path, an address or a name: something to evaluate, not opened yet."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from delugeserve.errors import RepositoryError, UsageError
from delugeserve.zoo import MODELS

Kind = Literal["weights", "checkpoint", "onnx", "version", "endpoint"]

_KINDS_OF_FILES: dict[str, Kind] = {".safetensors": "checkpoint", ".onnx": "onnx"}
_ADDRESS = re.compile(r"\w+://.*|(\[[\da-fA-F:.]+\]|[\w.-]+):\d+")
_ACCEPTED = (
    "Give a checkpoint (.safetensors), an ONNX file (.onnx), the folder of an exported version, a "
    "server's address such as localhost:8001, or a model's name (see 'delugeserve models')."
)


@dataclass(frozen=True)
class Reference:
    """Something to evaluate.

    Attributes:
        kind: what it is: a model's shipped weights, a checkpoint, an ONNX file, the folder of an
            exported version, or a server.
        value: name, path or address.
    """

    kind: Kind
    value: str


def recognise(text: str) -> Reference:
    """Find out what a user means.

    Args:
        text: the path of a checkpoint, an ONNX file, a version's or a model's folder; a server's
            address; or the name of a model with shipped weights.

    Raises:
        UsageError: it is none of these, or may be two.
    """
    path = Path(text)
    try:
        if path.exists():
            return _recognise_path(path, text)
        if _ADDRESS.fullmatch(text):
            return Reference("endpoint", text)
        if text in MODELS:
            return Reference("weights", text)
        raise UsageError(f"There is no file, folder or model '{text}'.", _suggest(path))
    except OSError as error:
        raise UsageError(
            f"{text} cannot be read: {error.strerror or error}.",
            "Check the path and its permissions.",
        ) from error


def _recognise_path(path: Path, text: str) -> Reference:
    if text in MODELS:
        raise UsageError(
            f"'{text}' is a model's name, and it lies here too.",
            f"Write ./{text} for what lies here, or --model {text} for the shipped weights.",
        )
    if path.is_dir():
        return Reference("version", str(_find_version(path)))
    kind = _KINDS_OF_FILES.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"{path} is neither a checkpoint nor an ONNX file.", _ACCEPTED)
    return Reference(kind, str(path))


def _find_version(folder: Path) -> Path:
    """The folder itself if it holds a version; if it holds a model, the version that is served."""
    from delugeserve.serving.repository import find_models

    if (folder / "manifest.json").is_file():
        return folder
    if (folder / "config.pbtxt").is_file():
        whole = folder.resolve()
        (model,) = find_models(whole.parent, [whole.name])
        if model.version is None:
            raise RepositoryError(
                f"{folder} lacks the version that its config.pbtxt serves.",
                "Export the model again, or give the folder of another version.",
            )
        return folder / str(model.version)
    models = sorted(config.parent for config in folder.glob("*/config.pbtxt"))
    if models:
        raise UsageError(f"{folder} is a whole model repository.", f"Give {models[0]}, say.")
    raise UsageError(f"The folder {folder} holds no exported version.", _ACCEPTED)


def _suggest(path: Path) -> str:
    """The nearest of the models' names and of what lies in the same folder, if one is near."""
    folder = path.parent
    names = [str(folder / child.name) for child in folder.iterdir()] if folder.is_dir() else []
    nearest = difflib.get_close_matches(str(path), [*MODELS, *names], n=1, cutoff=0.75)
    return f"Did you mean '{nearest[0]}'?" if nearest else _ACCEPTED
