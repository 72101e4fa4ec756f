"""Check a model repository: do configurations, manifests and files agree?"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from delugeserve.artifacts.canary import FILE_NAME as CANARY
from delugeserve.artifacts.canary import read_canary
from delugeserve.artifacts.companions import find_companions
from delugeserve.artifacts.labels import read_labels
from delugeserve.artifacts.manifest import FILE_NAME
from delugeserve.artifacts.model_config import FILE_NAME as CONFIG
from delugeserve.artifacts.model_config import ModelConfig, read_config
from delugeserve.artifacts.remedies import export_command
from delugeserve.artifacts.repository import (
    StoredModel,
    find_models,
    list_names,
    repository_option,
)
from delugeserve.artifacts.served_labels import find_label_faults
from delugeserve.artifacts.serving_config import (
    even_batches,
    leaves_cores_idle,
    stops_prefetching,
)
from delugeserve.artifacts.transaction import RECORD
from delugeserve.artifacts.versions import Version, read_version
from delugeserve.doctor.companions import check_companions, find_orphans
from delugeserve.doctor.findings import Finding, Status
from delugeserve.doctor.plans import check_plan
from delugeserve.doctor.server import native_backends, own_backends
from delugeserve.errors import RepositoryError
from delugeserve.runtimes import BACKENDS
from delugeserve.runtimes.base import PYTHON_RUNTIME
from delugeserve.system import hardware
from delugeserve.system.files import make_readable


def check_repository(repository: Path) -> Iterator[Finding]:
    """Check the served version of every model. Files are read and hashed; nothing is loaded.

    Args:
        repository: the model repository; it need not exist.
    """
    try:
        names = list_names(repository)
    except RepositoryError as error:
        yield _finding(str(repository), "absent", error.problem, error.remedy)
        return
    yield from find_orphans(repository)
    yield from _check_state(repository)
    native, own = native_backends(), own_backends()
    for name in names:
        try:
            yield from _check_model(repository, name, native, own)
        except RepositoryError as error:
            yield _finding(name, "problem", error.problem, error.remedy)
        except OSError as error:
            yield _finding(
                name,
                "problem",
                f"{error.filename} cannot be read ({error.strerror})",
                make_readable(repository / name),
            )


def _check_state(repository: Path) -> Iterator[Finding]:
    """Check the canary, and whether a change of the repository was interrupted."""
    option = repository_option(repository)
    if (repository / RECORD).exists():
        yield _finding(
            str(repository),
            "problem",
            "a change of it was interrupted",
            f"Finish it with: delugeserve versions{option}",
        )
    try:
        canary = read_canary(repository)
    except RepositoryError as error:
        yield _finding(str(repository), "problem", error.problem, error.remedy)
        return
    if canary is not None and not (repository / canary.model / str(canary.version)).is_dir():
        yield _finding(
            str(repository),
            "problem",
            f"its canary, version {canary.version} of '{canary.model}', does not exist",
            f"End it with: delugeserve rollback {_quote(Path(canary.model))}{option}"
            if (repository / canary.model).is_dir()
            else f"Delete {_quote(repository / CANARY)}.",
        )


@dataclass(frozen=True)
class _Served:
    """A version that is served, and its configuration.

    Attributes:
        version: the version.
        config: how it is served.
        stored: the model as the server finds it.
    """

    version: Version
    config: ModelConfig
    stored: StoredModel

    @property
    def name(self) -> str:
        """The model's name."""
        return self.version.model

    @property
    def config_path(self) -> str:
        """The configuration's path, to be pasted."""
        return _quote(self.stored.folder / CONFIG)

    def configure(self, options: str) -> str:
        """Return the command that changes its settings."""
        place = repository_option(self.stored.folder.parent)
        return f"delugeserve configure {self.name}{place} {options}"

    def export_again(self) -> str:
        """Return the remedy of exporting the model again."""
        command = export_command(self.stored.folder, self.version.manifest)
        return f"Export it again with: {command}"


def _check_model(
    repository: Path, name: str, native: frozenset[str], own: frozenset[str]
) -> Iterator[Finding]:
    (stored,) = find_models(repository, [name])
    config = read_config(stored.folder)
    if stored.version is None:
        yield _no_version(stored)
        return
    folder = stored.folder / str(stored.version)
    if not (folder / FILE_NAME).is_file():
        yield _finding(
            name,
            "warning",
            f"version {stored.version} has no {FILE_NAME}, so nothing is known about "
            f"{config.artefact or 'its files'}: 'delugeserve export' did not write it",
        )
        return
    served = _Served(read_version(folder), config, stored)
    found = [
        *_check_verification(served),
        *_check_files(served),
        *_check_labels(served),
        *_check_fields(served),
        *_check_batches(served),
        *_check_preferred(served),
        *_check_threads(served),
        *_check_queue(served),
        *_check_backend(served, native | own),
        *check_companions(stored, config, native | own),
        *check_plan(served.version, stored, native=_is_native(stored, native)),
    ]
    yield from found or [_finding(name, "ok", _describe(served))]


def _no_version(stored: StoredModel) -> Finding:
    others = sorted(path.name for path in stored.folder.iterdir() if path.name.isdecimal())
    if others:
        return _finding(
            stored.name,
            "problem",
            f"{CONFIG} serves a version that does not exist (there is {', '.join(others)})",
            f"Serve one of them with: delugeserve promote {stored.name} {others[-1]}"
            f"{repository_option(stored.folder.parent)}",
        )
    return _finding(
        stored.name,
        "problem",
        "it has no version",
        f"Export one with: {export_command(stored.folder, None)}, or delete "
        f"{_quote(stored.folder)}.",
    )


def _check_verification(served: _Served) -> Iterator[Finding]:
    verification = served.version.manifest.verification
    version = _quote(served.version.folder)
    if verification.status == "failed":
        failures = "; ".join(f"{check.name}: {check.found}" for check in verification.failures)
        yield _finding(
            served.name,
            "problem",
            f"its last verification failed{f' ({failures})' if failures else ''}",
            "Export it in another precision or for another backend, or, if the runtime was changed "
            f"in the meantime, restore it and run: delugeserve verify {version}",
        )
    elif verification.status != "passed":
        yield _finding(
            served.name,
            "warning",
            "it was built, but has not been verified",
            f"On a machine that can run it: delugeserve verify {version}",
        )


def _check_files(served: _Served) -> Iterator[Finding]:
    version, artefact = served.version, served.config.artefact
    for file in version.files:
        if file.state in ("changed", "missing"):
            what = "is missing" if file.state == "missing" else "is not the file that was exported"
            text = f"{version.number}/{file.name} {what}"
            yield _finding(served.name, "problem", text, served.export_again())
    if artefact and artefact not in (file.name for file in version.files):
        yield _finding(
            served.name,
            "problem",
            f"{CONFIG} loads {artefact}, which version {version.number} does not have",
            served.export_again(),
        )


def _check_labels(served: _Served) -> Iterator[Finding]:
    faults = find_label_faults(served.stored.folder, served.config)
    for companion in find_companions(served.stored.folder):
        faults += find_label_faults(companion, read_config(companion))
    for fault in faults:
        yield _finding(served.name, "problem", fault.problem, fault.remedy)
    wrong = {fault.output for fault in faults}
    for output, name in served.config.labels.items():
        path = served.stored.folder / name
        if not path.is_file():
            text = f"{name}, the labels of {output}, is missing"
        elif (labels := len(read_labels(path))) != (
            values := served.config.num_classes.get(output)
        ):
            text = f"{name} has {labels} labels, but {output} has {values} values"
        else:
            continue
        if output not in wrong:
            yield _finding(served.name, "problem", text, served.export_again())


def _check_fields(served: _Served) -> Iterator[Finding]:
    if unknown := served.config.unknown_fields:
        yield _finding(
            served.name,
            "warning",
            f"{CONFIG} has fields that this release does not know, and the server may refuse: "
            f"{', '.join(unknown)}",
            f"Correct their spelling in {served.config_path}, or use a server that has them.",
        )


def _check_batches(served: _Served) -> Iterator[Finding]:
    largest, verified = served.config.max_batch_size, served.version.manifest.max_batch_size
    if not 1 <= largest <= verified:  # lowered by hand is allowed
        yield _finding(
            served.name,
            "problem",
            f"max_batch_size is {largest} in {CONFIG}, but {verified} was built and verified",
            f"Write max_batch_size: {verified} in {served.config_path}, or export with "
            f"--max-batch-size {largest}.",
        )
        return
    too_large = [size for size in served.config.warmup_batches if size > largest]
    if too_large:
        yield _finding(
            served.name,
            "problem",
            f"{CONFIG} has a warm-up of batch {' and '.join(map(str, too_large))}, but "
            f"max_batch_size is {largest}: the server refuses the model or dies",
            f"Write batch_size: {largest} in that model_warmup of {served.config_path}.",
        )
        return
    cold = sorted({1, largest} - set(served.config.warmup_batches))
    if cold:
        yield _finding(
            served.name,
            "warning",
            f"no warm-up of batch {' and '.join(map(str, cold))}: the first such request is slow",
            f"Add to {served.config_path}: {served.config.warmup_text(cold)}",
        )


def _check_threads(served: _Served) -> Iterator[Finding]:
    cores, config = hardware.usable_cores(), served.config
    if config.threads is None or "KIND_GPU" in config.instance_kinds:
        return
    if config.instances * config.threads > cores:
        yield _finding(
            served.name,
            "warning",
            f"{config.instances} x {config.threads} threads (instances x threads of each) on "
            f"{cores} cores",
            f"Lower the product to {cores}, or remove the number of threads, in "
            f"{served.config_path}.",
        )


def _check_preferred(served: _Served) -> Iterator[Finding]:
    config, cores = served.config, hardware.usable_cores()
    preferred = config.queue.preferred_batch_sizes or ()
    if max(preferred, default=0) > config.max_batch_size:
        status: Status = "problem"
        text = f"but max_batch_size is {config.max_batch_size}: the server refuses the model"
    elif "KIND_GPU" not in config.instance_kinds and leaves_cores_idle(config.queue, cores):
        status, text = "warning", f"which are too small for {cores} cores"
    else:
        return
    better = ",".join(map(str, even_batches(cores, config.max_batch_size))) or "none"
    yield _finding(
        served.name,
        status,
        f"it prefers batches of {' and '.join(map(str, preferred))}, {text}",
        f"Change that with: {served.configure(f'--preferred-batches {better}')}",
    )


def _check_queue(served: _Served) -> Iterator[Finding]:
    if stops_prefetching(served.config.queue):
        without = "--queue-size 0 --queue-timeout 0 --no-client-timeout --priorities 0"
        yield _finding(
            served.name,
            "warning",
            "its queue has a size, a timeout or priorities: with one, Triton may pause for half a "
            "second on a busy machine",
            f"Remove them with: {served.configure(without)}",
        )


def _check_backend(served: _Served, servable: Collection[str]) -> Iterator[Finding]:
    backend, exported_for = served.config.backend, served.version.manifest.backend
    if backend != exported_for:
        yield _finding(
            served.name,
            "problem",
            f"{CONFIG} names the backend {backend}, but the version was exported for "
            f"{exported_for}",
            served.export_again(),
        )
    # Without a GPU, a plan is reported as such, see check_plan.
    record = BACKENDS.get(backend)
    wanted = record is None or record.runs_here()
    if wanted and backend not in servable:
        yield _finding(
            served.name,
            "problem",
            f"no server here has the backend '{backend}'",
            f"Install it with: pip install 'delugeserve[{record.serving_extra}]'"
            if record
            else f"{served.export_again()}, or for another --backend.",
        )


def _is_native(stored: StoredModel, native: Collection[str]) -> bool:
    return stored.backend in native and stored.runtime != PYTHON_RUNTIME


def _describe(served: _Served) -> str:
    config, manifest = served.config, served.version.manifest
    # By default the instances share the cores.
    threads = config.threads or max(1, hardware.usable_cores() // config.instances)
    on_cpu = "KIND_GPU" not in config.instance_kinds
    return (
        f"version {served.version.number}, {config.backend} in {manifest.precision}, "
        f"batches up to {config.max_batch_size}, "
        f"{config.instances} instance{'s' * (config.instances != 1)}"
        f"{f' of {threads} threads' if on_cpu else ' on the GPU'}, "
        f"{len(served.version.labels)} labels, files intact"
    )


def _quote(path: Path) -> str:
    return shlex.quote(str(path))


def _finding(model: str, status: Status, text: str, remedy: str | None = None) -> Finding:
    return Finding("repository", model, status, text, remedy)
