"""Processes started by ``torchrun`` that train together, each on a share of every batch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from delugeserve.errors import DelugeServeError, TrainingError

T = TypeVar("T")

# The first process may download or index a large data set while the others wait for it.
_PATIENCE = timedelta(hours=2)


# How long a process waits for the first one to print its error and end.
_LAST_WORDS_S = 60


class LostProcessError(TrainingError):
    """Another of the processes that train together has ended."""


@dataclass(frozen=True)
class World:
    """The processes that train together, and which of them this is.

    Attributes:
        rank: this process's number among all, from 0.
        size: number of processes.
        local_rank: this process's number among those on this machine, from 0.
        local_size: number of processes on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process logs and saves for all; the others only train."""
        return self.rank == 0


def current_world() -> World:
    """Return what ``torchrun`` set in the environment; without it, this process alone."""
    if not dist.is_torchelastic_launched():
        return World()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return World(*(int(os.environ[name]) for name in names))


@contextmanager
def connected(world: World) -> Iterator[None]:
    """Connect the processes while they work together.

    Raises:
        LostProcessError: another process has ended.
    """
    if world.size == 1:
        yield
        return
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(world.local_rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=_PATIENCE)
    try:
        yield
    except RuntimeError as error:
        # Gloo raises a plain RuntimeError.
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise LostProcessError(
            f"Process {world.rank} lost the connection to another of the {world.size} processes.",
            "Correct what ended that one (see its error), then resume the run.",
            resumable=True,
        ) from error
    # Not after an error: others may wait for this process, and its end stops them.
    dist.destroy_process_group()


def first_alone(world: World, action: Callable[[], T]) -> T:
    """Run an action in the first process, then in the others.

    If the first one fails, the others exit without repeating its error.
    """
    if world.size == 1:
        return action()
    status = torch.zeros(1, dtype=torch.int64)
    if not world.is_first:
        dist.broadcast(status, 0)
        if failed := int(status.item()):
            # Fails when the first process has printed its error and ended; torchrun then ends all.
            with suppress(RuntimeError):
                dist.broadcast(status, 0)
            # At once: a normal exit fails in the threads of a broken connection.
            os._exit(failed)
        return action()
    try:
        return action()
    except DelugeServeError as error:
        status += error.exit_code
        raise
    finally:
        dist.broadcast(status, 0)


@contextmanager
def first_reports(world: World) -> Iterator[None]:
    """Let the first process report an error that all processes meet, before they are connected.

    The others wait meanwhile: ``torchrun`` ends all processes as soon as one has ended.
    """
    try:
        yield
    except DelugeServeError:
        if not world.is_first:
            time.sleep(_LAST_WORDS_S)
        raise


def synchronise_norms(network: nn.Module) -> None:
    """Make every BatchNorm in a network take its statistics over the batches of all processes.

    On GPUs this is ``nn.SyncBatchNorm``, which works on GPUs only. Names and shapes of the state do
    not change.
    """
    if torch.cuda.is_available():
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = CpuSyncBatchNorm  # which adds no state


def share_buffers(network: nn.Module) -> None:
    """Give every process the first one's running statistics.

    Without synchronised BatchNorms, the processes would otherwise test slightly different networks.
    """
    for buffer in network.buffers():
        dist.broadcast(buffer, 0)


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm on CPUs over the batches of all processes, which must be equally large."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[N, C, H, W]`` in float32, or in float64 for float64 input."""
        if not self.training:
            return super().forward(x)
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        dims = (0, 2, 3)
        mean = _mean_over_processes(values.mean(dims))
        centred = values - mean[:, None, None]
        variance = _mean_over_processes(centred.square().mean(dims))
        with torch.no_grad():
            self._update(mean, variance, count=x.numel() // len(mean) * dist.get_world_size())
        scale = (variance + self.eps).rsqrt()
        if not self.affine:
            return (centred * scale[:, None, None]).to(x.dtype)
        scale = scale * self.weight
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    def _update(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Update the running statistics; the variance is unbiased, as in ``nn.BatchNorm2d``."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)


def _mean_over_processes(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total / dist.get_world_size()


class _Sum(torch.autograd.Function):
    """Sum over processes. Each one's loss depends on every value, so gradients are summed too."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total
