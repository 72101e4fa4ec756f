"""What a tuning will try, and how: everything that must be the same when it is resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delugeserve.artifacts.config_message import parse
from delugeserve.artifacts.configuring import plan_configuration
from delugeserve.artifacts.manifest import find_manifest
from delugeserve.artifacts.model_config import read_config, read_message
from delugeserve.artifacts.promotion import configs_of, find_model, plan_promotion
from delugeserve.artifacts.repository import version_numbers
from delugeserve.artifacts.serving_config import (
    PINNING,
    THREADS,
    read_serving,
    stops_prefetching,
)
from delugeserve.artifacts.transaction import lock_for_reading
from delugeserve.errors import UnknownNameError, UsageError
from delugeserve.system import hardware
from delugeserve.system.imports import require
from delugeserve.tuning.measure import LoadSettings
from delugeserve.tuning.space import Candidate, Space, Version, make_space


@dataclass(frozen=True)
class TuningPlan:
    """What a tuning will try.

    Attributes:
        repository: the model repository.
        model: name of the model.
        load: the load of every trial.
        space: the choices.
        before: the settings that the model has now, with the least number of servers. They need
            not be in the space.
        trials: number of trials, those of an earlier run included.
        output: folder of the study.
        machine: a description of this machine.
        hindered: the queue has limits, with which Triton's batcher may pause.
    """

    repository: Path
    model: str
    load: LoadSettings
    space: Space
    before: Candidate
    trials: int
    output: Path
    machine: str
    hindered: bool

    @property
    def options(self) -> dict[str, Any]:
        """The options that must be the same when the study is resumed, by name."""
        load, space = self.load, self.space
        return {
            "latency_budget": f"{load.latency_budget * 1e3:g}ms",
            "objective": load.objective.value,
            "percentile": round(load.percentile * 100, 6),
            "batch_size": load.batch_size,
            "duration": load.duration,
            "versions": ",".join(str(version.number) for version in space.versions),
            "replicas": ",".join(map(str, space.replicas)),
        }

    @property
    def facts(self) -> dict[str, str]:
        """What must be the same besides, by a name for the user."""
        found = {
            "model": self.model,
            "machine": self.machine,
            "largest batch": str(self.space.max_batch_size),
            "space": self.space.describe_choices(),  # another release may try other values
        }
        for one in self.space.versions:
            found[f"version {one.number}"] = f"{one.backend} {one.precision} {one.digest}".rstrip()
        return found

    @property
    def front(self) -> bool:
        """Whether the trials go through the front, as several servers need it."""
        return max(self.space.replicas) > 1


def plan_tuning(
    repository: Path,
    model: str,
    *,
    output: Path,
    load: LoadSettings | None = None,
    trials: int = 20,
    versions: Sequence[int] | None = None,
    replicas: Sequence[int] = (1,),
) -> TuningPlan:
    """Return what a tuning will try; nothing is changed.

    Args:
        repository: the model repository.
        model: name of the model.
        output: folder of the study; it need not exist.
        load: the load of every trial; None for the defaults.
        trials: number of trials, those of an earlier run included.
        versions: numbers of the versions to try; None for the one that is served.
        replicas: numbers of servers to try.

    Raises:
        UnknownNameError: there is no such model, or no such version.
        RepositoryError: the repository cannot be read.
        UsageError: the batch size is larger than the model takes, or the model has no settings.
        OtherClassesError: a version to try has other classes.
        MissingExtraError: optuna or mlcommons-loadgen is not installed.
    """
    require("optuna", "tune")
    require("mlperf_loadgen", "benchmark")
    load = load or LoadSettings()
    before = settings_of(repository, model, min(replicas))
    folder = repository / model
    known = version_numbers(folder)
    for number in versions or ():
        if number not in known:
            raise UnknownNameError(f"version of '{model}'", str(number), list(map(str, known)))
        if number != before.version:
            plan_promotion(repository, model, number)  # an error before the work
    chosen = sorted({*(versions or [before.version])})
    largest = min(_largest_batch(repository, model, one) for one in (before.version, *chosen))
    if load.batch_size > largest:
        raise UsageError(
            f"The model '{model}' takes at most {largest} images per request, not "
            f"{load.batch_size}.",
            f"Use --batch-size {largest} or less.",
        )
    space = make_space(
        [_version(folder, number, read_config(folder).backend) for number in chosen],
        cores=hardware.usable_cores(),
        max_batch_size=largest,
        latency_budget=load.latency_budget,
        replicas=replicas,
    )
    return TuningPlan(
        repository=repository,
        model=model,
        load=load,
        space=space,
        before=before,
        trials=trials,
        output=output,
        machine=hardware.describe(),
        hindered=stops_prefetching(read_serving(read_message(folder))),
    )


def _largest_batch(repository: Path, model: str, version: int) -> int:
    """Return the most images that a version takes, once it is promoted."""
    with lock_for_reading(repository):
        text = configs_of(repository, model, version)[model]
    size: int = parse(text).max_batch_size
    return max(1, size)


def _version(folder: Path, number: int, backend: str) -> Version:
    manifest = find_manifest(folder, number)
    if manifest is None:
        return Version(number, backend, "unknown", "")
    digest = "".join(one.sha256[:8] for _, one in sorted(manifest.files.items()))
    return Version(number, manifest.backend, manifest.precision, digest[:16])


def settings_of(repository: Path, model: str, replicas: int = 1) -> Candidate:
    """Return the settings that a model has now.

    Args:
        repository: the model repository.
        model: name of the model.
        replicas: number of servers, which is no setting of a model.

    Raises:
        UnknownNameError: there is no such model.
        RepositoryError: the repository cannot be read.
        UsageError: it has no version, or is no model whose settings can be changed.
    """
    served = find_model(repository, model)
    if served.number is None:
        raise UsageError(
            f"Model '{model}' has no version to serve.", "Export it, or promote a version of it."
        )
    message = read_message(repository / model)
    now = read_serving(message)
    backend = read_config(repository / model).backend
    found = Candidate(
        version=served.number,
        replicas=replicas,
        instances=now.instances or 1,
        threads=now.threads if backend in THREADS else None,
        cpu_pinning=now.cpu_pinning if backend in PINNING else None,
        queue_delay_us=now.queue_delay_us or 0,
        preferred_batch_sizes=now.preferred_batch_sizes or (),
    )
    plan_configuration(repository, model, found.serving())  # an ensemble, for instance, has none
    return found
