"""What can be tried: every setting with its choices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from delugeserve.artifacts.serving_config import PINNING, THREADS, ServingConfig, even_batches
from delugeserve.runtimes import BACKENDS

_DELAYS_US = (0, 500, 1_000, 2_000, 3_000, 5_000, 10_000)
_PREFERRED: tuple[tuple[int, ...], ...] = ((), (4,), (8,), (16,), (32,), (8, 16), (16, 32))
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
        preferred_batch_sizes: the sizes of its batches; empty for the largest.
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


@dataclass(frozen=True)
class Space:
    """The choices of each setting.

    Attributes:
        versions: of the model.
        cores: of this machine.
        max_batch_size: most images in a batch.
        replicas: numbers of servers.
        instances: numbers of instances.
        threads: numbers of threads; 0 divides the cores.
        queue_delays_us: in microseconds.
        preferred: lists of batch sizes.
    """

    versions: tuple[Version, ...]
    cores: int
    max_batch_size: int
    replicas: tuple[int, ...]
    instances: tuple[int, ...]
    threads: tuple[int, ...]
    queue_delays_us: tuple[int, ...]
    preferred: tuple[tuple[int, ...], ...]

    def describe_choices(self) -> str:
        """Return the values to choose from, apart from versions and numbers of servers."""
        preferred = " ".join(_join(sizes) for sizes in self.preferred)
        return (
            f"instances {_join(self.instances)}; threads {_join(self.threads)}; "
            f"delays {_join(self.queue_delays_us)} us; preferred {preferred}"
        )

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
        names = [_join(sizes) for sizes in self.preferred]
        preferred = self.preferred[names.index(choose("preferred", names))]
        if threads and threads >= max(1, self.cores // (instances * replicas)):
            threads = 0  # an equal share, or more than there are cores
        return Candidate(number, replicas, instances, threads, pinning, delay, preferred)

    def version(self, number: int) -> Version:
        """Return the version with a number."""
        return next(version for version in self.versions if version.number == number)

    @property
    def size(self) -> int:
        """About how many candidates there are."""
        waiting = len(self.queue_delays_us) * len(self.preferred)
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
        max_batch_size=max_batch_size,
        replicas=tuple(dict.fromkeys(replicas)),
        instances=_GPU_INSTANCES
        if on_gpu
        else tuple(count for count in powers if count <= _MOST_INSTANCES),
        threads=(0, *(count for count in powers if count < cores)),
        queue_delays_us=tuple(delay for delay in _DELAYS_US if delay == 0 or delay <= limit),
        preferred=tuple(
            sizes
            for sizes in dict.fromkeys((*_PREFERRED, even_batches(cores, max_batch_size)))
            if max(sizes, default=0) <= max(1, max_batch_size)
        ),
    )


def _join(sizes: Sequence[int]) -> str:
    return ",".join(map(str, sizes)) or "none"
