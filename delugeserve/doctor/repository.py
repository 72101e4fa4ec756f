"""A model repository: does every model's configuration agree with its manifest and its files?"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from delugeserve.artifacts.manifest import FILE_NAME
from delugeserve.artifacts.remedies import export_command, repository_option
from delugeserve.artifacts.repository import find_models, list_names
from delugeserve.artifacts.versions import (
    ServingConfig,
    Version,
    read_config,
    read_labels,
    read_version,
)
from delugeserve.doctor.findings import Finding, Status
from delugeserve.doctor.plans import examine_plan
from delugeserve.doctor.server import native_backends, own_backends
from delugeserve.errors import RepositoryError
from delugeserve.runtimes.plans import DISTRIBUTIONS
from delugeserve.serving.own_backends import OWN_BACKENDS
from delugeserve.system import hardware


def examine_repository(repository: Path) -> Iterator[Finding]:
    """Examine the served version of every model. Nothing is loaded; files are read and hashed.

    Args:
        repository: the model repository; it need not exist.
    """
    try:
        names = list_names(repository)
    except RepositoryError as error:
        yield _finding(str(repository), "absent", error.problem, error.remedy)
        return
    native, own = native_backends(), own_backends()
    for name in names:
        try:
            yield from _examine(repository, name, native, own)
        except RepositoryError as error:
            yield _finding(name, "problem", error.problem, error.remedy)
        except OSError as error:
            reason = f"{error.filename} cannot be read: {error.strerror}"
            yield _finding(name, "problem", reason, "Give this user the right to read it.")


def _examine(
    repository: Path, name: str, native: frozenset[str], own: frozenset[str]
) -> Iterator[Finding]:
    (stored,) = find_models(repository, [name])
    config = read_config(stored.folder)
    if stored.version is None:
        others = sorted(path.name for path in stored.folder.iterdir() if path.name.isdecimal())
        yield _finding(
            name,
            "problem",
            "config.pbtxt serves a version that is not there",
            f"Name one of {', '.join(others)} in its version_policy."
            if others
            else f"Export it again with: delugeserve export --model {name}"
            f"{repository_option(repository)}",
        )
        return
    folder = stored.folder / str(stored.version)
    if not (folder / FILE_NAME).is_file():
        yield _finding(
            name,
            "warning",
            f"version {stored.version} has no manifest, so 'delugeserve export' did not write it, "
            f"and only its server can tell whether {config.artefact or 'it'} loads",
        )
        return
    version = read_version(folder)
    again = f"Export it again with: {export_command(stored.folder, version.manifest)}"
    found = [
        *_examine_verification(version, again),
        *_examine_files(version, config, again),
        *_examine_labels(version, config, again),
        *_examine_batches(version, config, again),
        *_examine_threads(version, config),
        *_examine_backend(version, config, native | own, again),
        *examine_plan(version, stored, native),
    ]
    yield from found or [_finding(name, "ok", _describe(version, config))]


def _examine_verification(version: Version, again: str) -> Iterator[Finding]:
    status = version.manifest.verification.status
    if status == "failed":
        yield _finding(version.model, "problem", "it failed its last verification", again)
    elif status != "passed":
        yield _finding(
            version.model,
            "warning",
            "it has not been run since it was built",
            f"Where it will run, say: delugeserve verify {version.folder}",
        )


def _examine_files(version: Version, config: ServingConfig, again: str) -> Iterator[Finding]:
    for file in version.files:
        if file.state in ("changed", "missing"):
            what = "is missing" if file.state == "missing" else "is not the file that was exported"
            yield _finding(version.model, "problem", f"{version.number}/{file.name} {what}", again)
    if config.artefact and config.artefact not in (file.name for file in version.files):
        yield _finding(
            version.model,
            "problem",
            f"config.pbtxt loads {config.artefact}, and version {version.number} has none",
            again,
        )


def _examine_labels(version: Version, config: ServingConfig, again: str) -> Iterator[Finding]:
    for output, name in config.labels.items():
        path = version.folder.parent / name
        if not path.is_file():
            text = f"{name}, the labels of {output}, is missing"
        elif (labels := len(read_labels(path))) != (values := config.num_classes.get(output)):
            text = f"{name} has {labels} labels for the {values} values of {output}"
        else:
            continue
        yield _finding(version.model, "problem", text, again)


def _examine_batches(version: Version, config: ServingConfig, again: str) -> Iterator[Finding]:
    largest, verified = config.max_batch_size, version.manifest.max_batch_size
    if largest != verified:
        yield _finding(
            version.model,
            "problem",
            f"max_batch_size is {largest} in config.pbtxt, and {verified} is what was built and "
            "verified",
            f"Write max_batch_size: {verified}, or export with --max-batch-size {largest}.",
        )
    cold = sorted({1, max(largest, 1)} - set(config.warmup_batches))
    if cold:
        yield _finding(
            version.model,
            "warning",
            f"no warm-up of batch {' and '.join(map(str, cold))}: the first such request is slow",
            again,
        )


def _examine_threads(version: Version, config: ServingConfig) -> Iterator[Finding]:
    cores = hardware.usable_cores()
    if config.threads is None or "KIND_GPU" in config.instance_kinds:
        return
    wanted = config.instances * config.threads
    if wanted > cores:
        yield _finding(
            version.model,
            "warning",
            f"{config.instances} x {config.threads} threads (instances x threads of each) on "
            f"{cores} cores",
            f"Make it {cores} in all, or leave the threads out of config.pbtxt.",
        )


def _examine_backend(
    version: Version, config: ServingConfig, servable: Collection[str], again: str
) -> Iterator[Finding]:
    exported_for = version.manifest.backend
    if config.backend != exported_for:
        yield _finding(
            version.model,
            "problem",
            f"config.pbtxt says backend {config.backend}, and the manifest {exported_for}",
            again,
        )
    # Where there is no GPU, that is what is said of a plan.
    wanted = config.backend not in DISTRIBUTIONS or hardware.usable_gpus()
    if wanted and config.backend not in servable:
        yield _finding(
            version.model,
            "problem",
            f"no server here has the backend '{config.backend}'",
            "Install it with: pip install 'delugeserve[server]'"
            if config.backend in OWN_BACKENDS
            else f"{again}, or with another --backend.",
        )


def _describe(version: Version, config: ServingConfig) -> str:
    # Left to themselves, the instances share the cores.
    threads = config.threads or max(1, hardware.usable_cores() // config.instances)
    on_cpu = "KIND_GPU" not in config.instance_kinds
    return (
        f"version {version.number}, {config.backend} in {version.manifest.precision}, "
        f"batches up to {config.max_batch_size}, "
        f"{config.instances} x {f'{threads} threads' if on_cpu else 'GPU'}, "
        f"{len(version.labels)} labels, files whole"
    )


def _finding(model: str, status: Status, text: str, remedy: str | None = None) -> Finding:
    return Finding("repository", model, status, text, remedy)
