"""What can be evaluated: a checkpoint, an exported version, a running endpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from delugeserve.errors import CheckpointError, RepositoryError, UsageError
from delugeserve.zoo import ModelSpec, find_model

if TYPE_CHECKING:
    from delugeserve.evaluation import Classify


@dataclass(frozen=True)
class Subject:
    """A classifier of uint8 images, and what it is."""

    title: str
    spec: ModelSpec
    classify: Classify


@contextmanager
def open_subject(
    model: str | None, checkpoint: Path | None, version: Path | None, url: str | None
) -> Iterator[Subject]:
    """Open the one thing that the options name.

    Raises:
        UsageError: they name none, or several.
    """
    if sum(option is not None for option in (checkpoint, version, url)) > 1:
        raise UsageError(
            "Only one thing is evaluated at a time.", "Give one of --checkpoint, --version, --url."
        )
    spec = find_model(model) if model else None
    if url is not None:
        with _endpoint(spec, url) as subject:
            yield subject
    elif version is not None:
        yield _version(version)
    else:
        yield _checkpoint(spec, checkpoint)


def _checkpoint(spec: ModelSpec | None, path: Path | None) -> Subject:
    from delugeserve.checkpoint import load_checkpoint
    from delugeserve.evaluation import network_classifier

    if path is None and spec is None:
        raise UsageError(
            "There is nothing to evaluate.", "Give --model, --checkpoint, --version or --url."
        )
    path = path or (spec.weights if spec else None)
    if path is None:
        raise CheckpointError(
            f"No trained weights of '{spec.name if spec else ''}' ship with the package.",
            "Train it, then give --checkpoint.",
        )
    loaded = load_checkpoint(path, spec)
    return Subject(
        f"{path.name} (PyTorch, fp32)",
        loaded.spec,
        network_classifier(loaded.build(), loaded.spec.dataset),
    )


def _version(folder: Path) -> Subject:
    from delugeserve_export.engines import choose_backend
    from delugeserve_export.manifest import FILE_NAME

    try:
        manifest = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        spec = find_model(manifest["model"])
        backend, _ = choose_backend(manifest["backend"])
        artefact = next(folder.glob("model.onnx"), None) or next(folder.glob("model.xml"))
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise RepositoryError(
            f"{folder} is not an exported version.",
            "Give a folder such as model_repository/delugenet38/1.",
        ) from error
    infer = backend.load(artefact, manifest["precision"])
    title = f"{spec.name}/{folder.name} ({backend.title}, {manifest['precision']})"
    return Subject(title, spec, lambda images: infer(images)[0])


@contextmanager
def _endpoint(spec: ModelSpec | None, url: str) -> Iterator[Subject]:
    from delugeserve_client import Classifier

    if spec is None:
        raise UsageError("A server serves several models.", "Say which with --model.")
    with Classifier(url, spec.name) as classifier:
        yield Subject(f"{spec.name} at {url}", spec, classifier.infer)
