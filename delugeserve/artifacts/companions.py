"""The models that belong to another model of the repository: how they are named and found.

Beside a model ``M`` an export writes ``M_decode`` and ``M_image``, see
:mod:`delugeserve.artifacts.image_models`. They have the same versions as ``M`` and nothing of their
own to list, verify or remove.
"""

from __future__ import annotations

import re
from pathlib import Path

from delugeserve.artifacts.model_config import FILE_NAME as CONFIG
from delugeserve.errors import RepositoryError

IMAGE, DECODE = "_image", "_decode"
"""Ends of the names of a model's ensemble, which takes encoded images, and of its decoder."""

COMPANION_OF = "companion_of"
"""Key of the parameter in config.pbtxt that names the model that a companion belongs to."""

OFF = f"{CONFIG}.off"
"""The configuration of a companion while a version is served that has no such companion."""

_STATED = re.compile(
    rf'key\s*:\s*"{COMPANION_OF}"[\s,;]*value\s*:?\s*\{{\s*string_value\s*:\s*"([^"]+)"'
)


def companion_names(model: str) -> tuple[str, str]:
    """Return the names of a model's decoder and of its ensemble, in the order to load them."""
    return model + DECODE, model + IMAGE


def companion_of(folder: Path, file: str = CONFIG) -> str | None:
    """Return the model that a model's folder belongs to; None for a model of its own.

    Only names that end like a companion's are read, and as plain text, since this decides which of
    many folders are models.

    Args:
        folder: the folder.
        file: name of its configuration.
    """
    if not folder.name.endswith((IMAGE, DECODE)):
        return None
    try:
        stated = _STATED.search((folder / file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    owner = stated[1] if stated else None
    return owner if owner is not None and folder.name in companion_names(owner) else None


def check_names(repository: Path, name: str, *, companions: bool) -> None:
    """Check before the work that a model and its companions do not replace another model.

    Args:
        repository: the model repository; it need not exist.
        name: name of the model.
        companions: the model will have companions.

    Raises:
        RepositoryError: a name is taken.
    """
    folder = repository / name
    owner = companion_of(folder)
    if owner is not None:
        raise RepositoryError(
            f"'{name}' in {repository} takes the encoded images of the model '{owner}'.",
            "Use --name with another name.",
            folder,
        )
    for one in companion_names(name) if companions else ():
        taken = repository / one
        if taken.exists() and name not in (companion_of(taken, file) for file in (CONFIG, OFF)):
            raise RepositoryError(
                f"The encoded images of '{name}' need a model named '{one}', but {taken} is "
                "another one.",
                "Use --name with another name, or --no-image-model.",
                taken,
            )


def find_companions(folder: Path, *, off: bool = False) -> list[Path]:
    """Return the folders of a model's companions, in the order to load them.

    Args:
        folder: the model's folder.
        off: with those that are not served now, because the served version has none.
    """
    files = (CONFIG, OFF) if off else (CONFIG,)
    return [
        beside
        for name in companion_names(folder.name)
        if folder.name in [companion_of(beside := folder.with_name(name), file) for file in files]
    ]
