"""Commands that export a model again: pasted as they are, they publish where it lies."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delugeserve.system.files import sha256
from delugeserve.zoo import MODELS

_DEFAULT = Path("model_repository")  # of every command that has --repository


def read_facts(folder: Path, version: int | None) -> Mapping[str, Any]:
    """What the manifest of a model's version says, whoever wrote it; nothing if there is none."""
    path = folder / str(version) / "manifest.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def export_command(folder: Path, facts: Mapping[str, Any], backend: str | None = None) -> str:
    """What exports a model again, as far as its manifest tells: of a checkpoint, the file's name.

    Args:
        folder: the model's.
        facts: its manifest; see :func:`read_facts`.
        backend: another one to export for, in its best precision; None for the same.
    """
    options = [_source(folder.name, facts)]
    known = facts.get("backend")
    if backend or known:
        options.append(f"--backend {str(backend or known).replace('_', '-')}")
    if backend in (None, known) and "precision" in facts:
        options.append(f"--precision {facts['precision']}")
    if "max_batch_size" in facts:
        options.append(f"--max-batch-size {facts['max_batch_size']}")
    return f"delugeserve export {' '.join(options)}{repository_option(folder.parent)}"


def repository_option(repository: Path) -> str:
    """The option that names a repository, after a space; empty if a command needs none."""
    if repository.resolve() == _DEFAULT.resolve():
        return ""
    return f" --repository {shlex.quote(str(repository))}"


def _source(model: str, facts: Mapping[str, Any]) -> str:
    origin = facts.get("checkpoint")
    if not isinstance(origin, dict) or "file" not in origin:
        return f"--model {model}"
    spec = MODELS.get(model)
    if spec and spec.weights:
        shipped = sha256(spec.weights)
        if origin.get("sha256") == shipped:
            return f"--model {model}"
    return f"--checkpoint {shlex.quote(str(origin['file']))}"
