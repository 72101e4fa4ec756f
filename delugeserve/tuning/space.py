"""What can be tried: every setting with its choices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from delugeserve.artifacts.serving_config import PINNING, THREADS, ServingConfig
from delugeserve.runtimes import BACKENDS

_DELAYS_US = (0, 500, 1_000, 2_000, 3_000, 5_000, 10_000)
_PREFERRED = ((), (4,), (8,), (16,), (32,), (8, 16), (16, 32))
_GPU_INSTANCES = (1, 2, 3, 4)
_MOST_INSTANCES = 16


class Suggest(Protocol):
    """What chooses values: an optuna trial."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of the choices, which are the same each time."""


@dataclass(frozen=True)
class Version:
    """An exported version of the model.

    Attributes:
        number: of the version.
        backend: Triton's name of its backend.
        precision: what it computes in.
        digest: hexadecimal digits that identify its artefact.
    """

    number: int
    backend: str
    precision: str
    digest: str


@dataclass(frozen=True)
class Candidate:
    """Settings to try.

    Attributes:
        version: number of the version.
        replicas: number of servers that answer side by side.
        instances: number of instances in each, on each device.
        threads: threads of an instance; 0 divides the cores among them, None where the backend has
            no such setting.
        cpu_pinning: each thread stays on one core; None where the backend has no such setting.
        queue_delay_us: how long the batcher waits for more requests, in microseconds.
        preferred_batch_sizes: what it waits for; empty for the largest batch.
    """

    version: int
    replicas: int = 1
    instances: int = 1
    threads: int | None = 0
    cpu_pinning: bool | None = False
    queue_delay_us: int = 0
    preferred_batch_sizes: tuple[int, ...] = ()

    def serving(self) -> ServingConfig:
        """Return what is written into ``config.pbtxt``."""
        return ServingConfig(
            instances=self.instances,
            threads=self.threads,
            cpu_pinning=self.cpu_pinning,
            queue_delay_us=self.queue_delay_us,
            preferred_batch_sizes=self.preferred_batch_sizes,
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """The values by which a study knows it; see :meth:`Space.suggest`."""
        values: dict[str, Any] = {
            "version": self.version,
            "replicas": self.replicas,
            "instances": self.instances,
            "queue_delay_us": self.queue_delay_us,
        }
        if self.threads is not None:
            values["threads"] = self.threads
        if self.cpu_pinning is not None:
            values["cpu_pinning"] = self.cpu_pinning
        if self.queue_delay_us:
            values["preferred"] = _join(self.preferred_batch_sizes)
        return values


@dataclass(frozen=True)
class Space:
    """The choices of each setting.

    Attributes:
        versions: of the model.
        cores: of this machine.
        replicas: numbers of servers.
        instances: numbers of instances.
        threads: numbers of threads; 0 divides the cores.
        queue_delays_us: in microseconds.
        preferred: lists of batch sizes.
    """

    versions: tuple[Version, ...]
    cores: int
    replicas: tuple[int, ...]
    instances: tuple[int, ...]
    threads: tuple[int, ...]
    queue_delays_us: tuple[int, ...]
    preferred: tuple[tuple[int, ...], ...]

    def suggest(self, trial: Suggest) -> Candidate:
        """Return a candidate with the values that a trial chooses."""

        def choose(name: str, choices: Sequence[Any]) -> Any:
            return trial.suggest_categorical(name, list(choices))

        number = choose("version", [version.number for version in self.versions])
        backend = self.version(number).backend
        replicas = choose("replicas", self.replicas)
        instances = choose("instances", self.instances)
        threads = choose("threads", self.threads) if backend in THREADS else None
        pinning = choose("cpu_pinning", (False, True)) if backend in PINNING else None
        delay = choose("queue_delay_us", self.queue_delays_us)
        # The batcher heeds preferred sizes only while it waits.
        names = [_join(sizes) for sizes in self.preferred]
        preferred = self.preferred[names.index(choose("preferred", names))] if delay else ()
        if threads and threads * instances * replicas >= self.cores:
            threads = 0  # an equal share
        return Candidate(number, replicas, instances, threads, pinning, delay, preferred)

    def version(self, number: int) -> Version:
        """Return the version with a number."""
        return next(version for version in self.versions if version.number == number)

    def clamp(self, wanted: Candidate) -> Candidate:
        """Return the candidate nearest to the settings of a model, which may lie outside."""
        delay = _nearest(self.queue_delays_us, wanted.queue_delay_us)
        fits = delay and wanted.preferred_batch_sizes in self.preferred
        backend = self.version(wanted.version).backend
        return Candidate(
            wanted.version,
            _nearest(self.replicas, wanted.replicas),
            _nearest(self.instances, wanted.instances),
            _nearest(self.threads, wanted.threads or 0) if backend in THREADS else None,
            bool(wanted.cpu_pinning) if backend in PINNING else None,
            delay,
            wanted.preferred_batch_sizes if fits else (),
        )

    @property
    def size(self) -> int:
        """About how many candidates there are."""
        waiting = (len(self.queue_delays_us) - 1) * len(self.preferred) + 1
        shapes = len(self.replicas) * len(self.instances) * waiting
        return sum(
            shapes
            * (len(self.threads) if version.backend in THREADS else 1)
            * (2 if version.backend in PINNING else 1)
            for version in self.versions
        )


def make_space(
    versions: Sequence[Version],
    *,
    cores: int,
    max_batch_size: int,
    latency_budget: float,
    replicas: Sequence[int] = (1,),
) -> Space:
    """Return the choices that make sense on a machine.

    Args:
        versions: the versions to try.
        cores: of the machine.
        max_batch_size: most images in a batch.
        latency_budget: in seconds; a batcher that waits for half of it leaves too little.
        replicas: numbers of servers to try.
    """
    on_gpu = any(BACKENDS[one.backend].on_gpu for one in versions if one.backend in BACKENDS)
    powers = [1 << exponent for exponent in range(int(math.log2(cores)) + 1)]
    limit = latency_budget * 1e6 / 2
    return Space(
        versions=tuple(versions),
        cores=cores,
        replicas=tuple(dict.fromkeys(replicas)),
        instances=_GPU_INSTANCES
        if on_gpu
        else tuple(count for count in powers if count <= _MOST_INSTANCES),
        threads=(0, *(count for count in powers if count < cores)),
        queue_delays_us=tuple(delay for delay in _DELAYS_US if delay == 0 or delay <= limit),
        preferred=tuple(
            sizes for sizes in _PREFERRED if max(sizes, default=0) <= max(1, max_batch_size)
        ),
    )


def _nearest(choices: Sequence[int], wanted: int) -> int:
    return min(choices, key=lambda choice: abs(choice - wanted))


def _join(sizes: Sequence[int]) -> str:
    return ",".join(map(str, sizes)) or "none"
