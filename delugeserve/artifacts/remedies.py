"""Commands for error messages: pasted, they mend the same repository."""

from __future__ import annotations

import shlex
from pathlib import Path

from delugeserve.artifacts.history import read_history
from delugeserve.artifacts.manifest import Manifest
from delugeserve.artifacts.repository import repository_option, version_numbers
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
    if folder.name != _own_name(folder.name, manifest):
        options.append(f"--name {shlex.quote(folder.name)}")
    known = manifest.backend if manifest else None
    if name := backend or known:
        options.append(f"--backend {name.replace('_', '-')}")
    if manifest:
        if backend in (None, known):
            options.append(f"--precision {manifest.precision}")
        options.append(f"--max-batch-size {manifest.max_batch_size}")
    return f"delugeserve export {' '.join(options)}{repository_option(folder.parent)}"


def serve_another(folder: Path, version: int | None, manifest: Manifest | None) -> str:
    """Return what to do about a version that cannot be served, as one sentence.

    Args:
        folder: the model's folder.
        version: number of the version.
        manifest: of the version; None if there is none.
    """
    there = version_numbers(folder)
    if any(one != version and one in there for one in read_history(folder, version)):
        name, option = shlex.quote(folder.name), repository_option(folder.parent)
        return f"Serve the version before it with: delugeserve rollback {name}{option}"
    return f"Export it again with: {export_command(folder, manifest)}"


def _own_name(model: str, manifest: Manifest | None) -> str:
    """Return the network's own name, which an export takes if it is given no other."""
    if manifest is not None:
        return manifest.network.name
    return model if model in MODELS else ""


def _source(model: str, manifest: Manifest | None) -> str:
    network = _own_name(model, manifest)
    origin = manifest.checkpoint if manifest else None
    if origin is not None and origin.file is not None:
        spec = MODELS.get(network)
        if not (spec and spec.weights and origin.sha256 == sha256(spec.weights)):
            return f"--checkpoint {shlex.quote(origin.file)}"
    return f"--model {shlex.quote(network)}" if network else "--checkpoint RUN"
