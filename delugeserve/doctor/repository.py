"""A model repository: does every model's configuration agree with its manifest and its files?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from delugeserve import hardware
from delugeserve.doctor.findings import Finding
from delugeserve.doctor.plans import examine_plan
from delugeserve.doctor.server import servable_backends
from delugeserve.errors import RepositoryError
from delugeserve.inspection.versions import Version, read_config, read_labels, read_version
from delugeserve.serving.repository import StoredModel, find_models, list_names
from delugeserve.serving.server import OWN_BACKENDS


def examine_repository(repository: Path) -> Iterator[Finding]:
    """Examine the served version of every model. Nothing is loaded; files are read and hashed.

    Args:
        repository: the model repository; it need not exist.
    """
    try:
        names = list_names(repository)
    except RepositoryError as error:
        yield Finding("repository", str(repository), "absent", error.problem, error.remedy)
        return
    for name in names:
        try:
            (stored,) = find_models(repository, [name])
            problems = list(_examine(stored))
        except RepositoryError as error:
            problems = [_problem(name, error.problem, error.remedy)]
        except OSError as error:
            reason = f"{error.filename} cannot be read: {error.strerror}"
            problems = [_problem(name, reason, "Give this user the right to read it.")]
        if not problems:
            yield Finding("repository", name, "ok", _describe(stored))
        yield from problems


def _examine(stored: StoredModel) -> Iterator[Finding]:
    """What is wrong with a model."""
    again = f"Export it again with: delugeserve export --model {stored.name}"
    if stored.version is None:
        versions = sorted(path.name for path in stored.folder.iterdir() if path.name.isdecimal())
        yield _problem(
            stored.name,
            "config.pbtxt serves a version that is not there",
            f"Name one of {', '.join(versions)} in its version_policy." if versions else again,
        )
        return
    folder = stored.folder / str(stored.version)
    if not (folder / "manifest.json").is_file():
        config = read_config(stored.folder)
        yield Finding(
            "repository",
            stored.name,
            "warning",
            f"version {stored.version} has no manifest, so 'delugeserve export' did not write it, "
            f"and only its server can tell whether {config.artefact or 'it'} loads",
        )
        return
    version = read_version(folder)
    yield from _examine_files(version, again)
    yield from _examine_batches(version, again)
    yield from _examine_threads(version)
    yield from _examine_backend(version, again)
    yield from examine_plan(version)


def _examine_files(version: Version, again: str) -> Iterator[Finding]:
    for file in version.files:
        if file.state in ("changed", "missing"):
            what = "is missing" if file.state == "missing" else "is not the file that was exported"
            yield _problem(version.model, f"{version.number}/{file.name} {what}", again)
    config = version.config
    if config is None:
        return
    present = {file.name for file in version.files if file.state != "missing"}
    listed = version.manifest["files"]
    if config.artefact and config.artefact not in present and config.artefact not in listed:
        yield _problem(
            version.model,
            f"config.pbtxt loads {config.artefact}, and version {version.number} has none",
            again,
        )
    if config.backend != version.manifest["backend"]:
        yield _problem(
            version.model,
            f"config.pbtxt says backend {config.backend}, and the manifest "
            f"{version.manifest['backend']}",
            again,
        )
    for output, label_file in config.labels.items():
        yield from _examine_labels(version, output, label_file, again)


def _examine_labels(
    version: Version, output: str, label_file: str, again: str
) -> Iterator[Finding]:
    path = version.folder.parent / label_file
    if not path.is_file():
        yield _problem(version.model, f"{label_file}, the labels of {output}, is missing", again)
        return
    classes = version.config.num_classes.get(output) if version.config else None
    labels = read_labels(path)
    if classes is not None and len(labels) != classes:
        yield _problem(
            version.model,
            f"{label_file} has {len(labels)} labels for the {classes} values of {output}",
            again,
        )


def _examine_batches(version: Version, again: str) -> Iterator[Finding]:
    config, proved = version.config, version.manifest.get("max_batch_size")
    if config is None:
        return
    if config.max_batch_size != proved:
        yield _problem(
            version.model,
            f"max_batch_size is {config.max_batch_size} in config.pbtxt, and {proved} is what was "
            "built and verified",
            f"Write max_batch_size: {proved}, or export with --max-batch-size "
            f"{config.max_batch_size}.",
        )
    cold = {1, max(config.max_batch_size, 1)} - set(config.warmup_batches)
    if cold:
        yield Finding(
            "repository",
            version.model,
            "warning",
            f"no warm-up of batch {' and '.join(map(str, sorted(cold)))}: the first such request "
            "is slow",
            again,
        )


def _examine_threads(version: Version) -> Iterator[Finding]:
    config, cores = version.config, hardware.usable_cores()
    if config is None or config.threads is None or "KIND_GPU" in config.instance_kinds:
        return
    wanted = config.instances * config.threads
    if wanted > cores:
        yield Finding(
            "repository",
            version.model,
            "warning",
            f"{config.instances} instances of {config.threads} threads are {wanted} threads on "
            f"{cores} cores",
            f"Let instances x threads be {cores}, or leave the threads out.",
        )


def _examine_backend(version: Version, again: str) -> Iterator[Finding]:
    backend = version.config.backend if version.config else version.manifest["backend"]
    # Where a plan runs is a question of its own.
    if backend in servable_backends() or backend.startswith("tensorrt"):
        return
    yield _problem(
        version.model,
        f"no server here has the backend '{backend}'",
        "Install it with: pip install 'delugeserve[server]'"
        if backend in OWN_BACKENDS
        else f"{again} --backend auto",
    )


def _describe(stored: StoredModel) -> str:
    version = read_version(stored.folder / str(stored.version))
    config = version.config
    shown = [f"version {version.number}", f"{stored.backend} in {version.manifest['precision']}"]
    if config is not None:
        threads = config.threads or max(1, hardware.usable_cores() // config.instances)
        shown += [f"batches up to {config.max_batch_size}"]
        shown += [f"{config.instances} x {threads} threads"] * (
            "KIND_GPU" not in config.instance_kinds
        )
    return ", ".join([*shown, f"{len(version.labels)} labels", "files whole"])


def _problem(model: str, text: str, remedy: str) -> Finding:
    return Finding("repository", model, "problem", text, remedy)
