"""Export commands for error messages: pasted, they publish into the same repository."""

from __future__ import annotations

import shlex
from pathlib import Path

from delugeserve.artifacts.manifest import Manifest
from delugeserve.artifacts.repository import repository_option
from delugeserve.system.files import sha256
from delugeserve.zoo import MODELS


def export_command(folder: Path, manifest: Manifest | None, backend: str | None = None) -> str:
    """Return the command that exports a model again, as far as its manifest tells.

    Of a checkpoint the manifest has the file's name, not its folder.

    Args:
        folder: the model's folder.
        manifest: of the version; None if there is none.
        backend: another backend to export for, in its best precision; None for the same.
    """
    options = [_source(folder.name, manifest)]
    known = manifest.backend if manifest else None
    if name := backend or known:
        options.append(f"--backend {name.replace('_', '-')}")
    if manifest:
        if backend in (None, known):
            options.append(f"--precision {manifest.precision}")
        options.append(f"--max-batch-size {manifest.max_batch_size}")
    return f"delugeserve export {' '.join(options)}{repository_option(folder.parent)}"


def _source(model: str, manifest: Manifest | None) -> str:
    origin = manifest.checkpoint if manifest else None
    if origin is None or origin.file is None:
        return f"--model {model}"
    spec = MODELS.get(model)
    if spec and spec.weights and origin.sha256 == sha256(spec.weights):
        return f"--model {model}"
    return f"--checkpoint {shlex.quote(origin.file)}"
