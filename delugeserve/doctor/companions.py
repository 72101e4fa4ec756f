"""Check the models beside a classifier that let a server take encoded images."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator
from pathlib import Path

from delugeserve.artifacts.companions import companion_names, companion_of, find_companions
from delugeserve.artifacts.interface import INPUT
from delugeserve.artifacts.manifest import find_manifest
from delugeserve.artifacts.model_config import ENSEMBLE, ModelConfig, read_config
from delugeserve.artifacts.model_config import FILE_NAME as CONFIG
from delugeserve.artifacts.preprocessing import DIGEST
from delugeserve.artifacts.remedies import export_command
from delugeserve.artifacts.repository import StoredModel, repository_option, served_version
from delugeserve.doctor.findings import Finding
from delugeserve_client.preprocessing import Preprocessing


def check_companions(
    model: StoredModel, config: ModelConfig, servable: Collection[str]
) -> Iterator[Finding]:
    """Check that a model and its companions belong together. A model may have none.

    Args:
        model: the model.
        config: its configuration.
        servable: the backends that a server here has.
    """
    yield from _check_digest(model, config)
    found = find_companions(model.folder)
    if not found:
        return
    for name in companion_names(model.name):
        if name not in (folder.name for folder in found):
            yield _problem(
                model, f"{name} is missing, so the server does not take encoded images for it"
            )
    for folder in found:
        companion = read_config(folder)
        version = served_version(folder, companion.versions)
        steps = {step.version for step in companion.ensemble}
        if version != model.version:
            yield _problem(
                model,
                f"{folder.name} serves version {version}, but version {model.version} of "
                f"{model.name} is served, so it is left out",
                folder,
            )
        elif steps - {model.version}:
            listed = ", ".join(map(str, sorted(steps)))
            yield _problem(
                model,
                f"{folder.name} runs version {listed} of its models, not {model.version}",
                folder,
            )
        if companion.max_batch_size > config.max_batch_size >= 1:
            yield _problem(
                model,
                f"{folder.name} takes batches up to {companion.max_batch_size}, but {model.name} "
                f"up to {config.max_batch_size}: the server refuses to load it",
                folder,
            )
        if servable and companion.backend not in (ENSEMBLE, *servable):
            yield Finding(
                "repository",
                model.name,
                "warning",
                f"no server here has the backend '{companion.backend}' of {folder.name}",
                f"Export it again with: {_export_again(model)} --decoder python, or serve it in "
                "NVIDIA's Triton container.",
            )
        digest, expected = companion.parameters.get(DIGEST), config.parameters.get(DIGEST)
        if digest != expected:
            yield _problem(
                model,
                f"{folder.name} prepares images in another way ({digest}) than {model.name} "
                f"expects ({expected})",
            )


def find_orphans(repository: Path) -> Iterator[Finding]:
    """Report the companions of models that are not in the repository."""
    for folder in sorted(repository.iterdir()):
        owner = companion_of(folder)
        if owner is not None and not (repository / owner / CONFIG).is_file():
            yield Finding(
                "repository",
                folder.name,
                "warning",
                f"it belongs to the model '{owner}', which is not in the repository, so it is not "
                "served",
                f"Delete it: rm -r {shlex.quote(str(folder))}",
            )


def _check_digest(model: StoredModel, config: ModelConfig) -> Iterator[Finding]:
    """Check that clients of this release prepare images as the model expects."""
    expected, image = config.parameters.get(DIGEST), config.inputs.get(INPUT)
    size = config.parameters.get("resize_size", "")
    if expected is None or image is None or len(image.dims) != 3 or not size.isdecimal():
        return  # a model of an older release, or of someone else
    height, width, _ = image.dims
    interpolation = config.parameters.get("interpolation", "bicubic")
    found = Preprocessing(height, width, int(size), interpolation).digest
    if found != expected:
        yield _problem(
            model,
            f"it was exported for another preprocessing ({expected}) than this release's "
            f"({found}): the client refuses it",
        )


def _problem(model: StoredModel, text: str, companion: Path | None = None) -> Finding:
    """Return a problem that ``promote`` mends where the companion has the version, or an export."""
    if companion is not None and (companion / str(model.version)).is_dir():
        option = repository_option(model.folder.parent)
        remedy = f"Mend it with: delugeserve promote {model.name} {model.version}{option}"
    else:
        remedy = f"Export it again with: {_export_again(model)}"
    return Finding("repository", model.name, "problem", text, remedy)


def _export_again(model: StoredModel) -> str:
    return export_command(model.folder, find_manifest(model.folder, model.version))
