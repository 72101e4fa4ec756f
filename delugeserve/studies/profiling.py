"""Memory and speed of one network in several forms, as in the paper's section 5.

Every measurement runs in a new process, so that no form reuses memory that another has freed. The
speed of a shared machine drifts, so every round measures all forms one after the other, every
second round in reverse order, and ratios are taken within the rounds.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delugeserve.errors import Failure, UsageError
from delugeserve.networks.build import build_network
from delugeserve.networks.delugenet import DelugeNet
from delugeserve.networks.fused import best_kernels
from delugeserve.networks.inference import fold
from delugeserve.networks.per_reader import per_reader
from delugeserve.system.memory import explain_out_of_memory, keep_freed_memory
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve.zoo import ModelSpec

_log = logging.getLogger(__name__)

Phase = Literal["training", "inference"]
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Variant:
    """One form of a network.

    Attributes:
        title: a short description.
        phases: the phases in which it differs from the others.
        fused: whether its cross-layer sums are fused and compiled.
        checkpointed: whether its sums are computed again in the backward pass.
    """

    title: str
    phases: tuple[Phase, ...] = ("training", "inference")
    fused: bool = False
    checkpointed: bool = False


REFERENCE = "per-reader"

VARIANTS = MappingProxyType(
    {
        REFERENCE: Variant("every reader normalises its inputs (the authors' form)"),
        "once": Variant("every output is normalised once (as trained here)"),
        "fused": Variant("as once, fused sums", fused=True),
        "checkpointed": Variant(
            "as once, with checkpointed sums", ("training",), checkpointed=True
        ),
        "fused-checkpointed": Variant("as once, both", ("training",), True, True),
        "folded": Variant("BatchNorms folded, as exported", ("inference",)),
        "baseline": Variant("ResNet-like baseline, 3x3 shortcut"),
    }
)


@dataclass(frozen=True)
class Sample:
    """The measurement of one process.

    Attributes:
        seconds: median time of a step.
        cpu_seconds: median CPU time of a step, of all threads.
        peak_bytes: peak memory, without what the libraries take.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int


Samples = dict[tuple[Phase, str], list[Sample]]
"""A sample for each round, by phase and variant."""


def profile(
    spec: ModelSpec,
    batch_size: int,
    precision: Precision,
    variants: Sequence[str] = tuple(VARIANTS),
    *,
    rounds: int = 3,
    steps: int = 3,
    progress: Progress = NO_PROGRESS,
) -> Samples:
    """Measure variants of a network, in training and in inference.

    Args:
        spec: the network, a DelugeNet.
        batch_size: images per step.
        precision: ``bf16`` is autocast, and bf16 throughout for the folded form.
        variants: names from :data:`VARIANTS`.
        rounds: measurements of each variant.
        steps: timed steps of a measurement, after a warm-up step.
        progress: receives one step per measurement.

    Raises:
        UsageError: the model is a baseline.
        Failure: a process was killed, or memory ran out.
    """
    if spec.architecture.baseline:
        raise UsageError(
            f"{spec.name} is a baseline, which has no cross-layer sums to profile.",
            "Use --model with a DelugeNet; its baseline is one of the variants.",
        )
    contestants: list[tuple[Phase, str]] = [
        (phase, name)
        for phase in ("training", "inference")
        for name in variants
        if phase in VARIANTS[name].phases
    ]
    samples: Samples = {contestant: [] for contestant in contestants}
    progress.stage("profile", rounds * len(contestants))
    spawn = multiprocessing.get_context("spawn")
    for number in range(rounds):
        for phase, name in contestants[:: -1 if number % 2 else 1]:
            _log.info("round %d of %d: %s, %s", number + 1, rounds, phase, name)
            with ProcessPoolExecutor(1, spawn) as process:
                try:
                    with explain_out_of_memory("Use a smaller --batch-size."):
                        sample = process.submit(
                            measure, spec, batch_size, precision, name, phase, steps
                        ).result()
                except BrokenProcessPool as error:
                    raise Failure(
                        f"The process that measured {name} in {phase} was killed, "
                        "as happens when memory runs out.",
                        "Use a smaller --batch-size.",
                    ) from error
            samples[phase, name].append(sample)
            progress.advance()
    return samples


def speed_ratio(samples: Samples, phase: Phase, name: str) -> list[float]:
    """Return speed relative to the reference, by round."""
    pairs = zip(samples[phase, REFERENCE], samples[phase, name], strict=True)
    return [reference.seconds / sample.seconds for reference, sample in pairs]


def memory_ratio(samples: Samples, phase: Phase, name: str) -> list[float]:
    """Return memory relative to the reference, by round."""
    pairs = zip(samples[phase, REFERENCE], samples[phase, name], strict=True)
    return [sample.peak_bytes / reference.peak_bytes for reference, sample in pairs]


@keep_freed_memory()
def measure(
    spec: ModelSpec, batch: int, precision: Precision, name: str, phase: Phase, steps: int
) -> Sample:
    """Measure one variant in this process, which should be new."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # A few layers of the same sizes first, so that loading libraries and compiling kernels is not
    # measured.
    layers = (2,) * len(spec.architecture.layers)
    shallow = replace(spec, architecture=replace(spec.architecture, layers=layers))
    _stepper(shallow, batch, precision, name, phase, device)()
    memory = _memory_meter(device)
    step = _stepper(spec, batch, precision, name, phase, device)
    step()
    times, cpu_times = [], []
    for _ in range(steps):
        start, cpu_start = time.perf_counter(), time.process_time()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        cpu_times.append(time.process_time() - cpu_start)
    return Sample(median(times), median(cpu_times), memory())


def _stepper(
    spec: ModelSpec,
    batch: int,
    precision: Precision,
    name: str,
    phase: Phase,
    device: torch.device,
) -> Callable[[], None]:
    """Build a variant, and return a function that makes one step with it."""
    network = build_variant(spec, name).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(batch, *spec.input_shape, device=device)
    images = images.to(memory_format=torch.channels_last)
    autocast = precision == "bf16"
    if autocast and name == "folded":
        # As served: weights in bf16 too. Autocast would compute its sums in float32.
        network, images, autocast = network.bfloat16(), images.bfloat16(), False
    labels = torch.arange(batch, device=device) % spec.task.num_classes
    optimiser = torch.optim.SGD(
        network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4
    )

    def forward() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            logits: Tensor = network(images)
        return logits.float()

    def train() -> None:
        F.cross_entropy(forward(), labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()

    def infer() -> None:
        with torch.no_grad():
            forward()

    network.train(phase == "training")
    return train if phase == "training" else infer


def build_variant(spec: ModelSpec, name: str) -> nn.Module:
    """Build a network in the form of a variant, from a seed."""
    if name == "baseline":
        architecture = replace(spec.architecture, baseline="3x3")
        return build_network(replace(spec, architecture=architecture), seed=0)
    network = build_network(spec, seed=0)
    assert isinstance(network, DelugeNet)
    if name == REFERENCE:
        return per_reader(network)
    if name == "folded":
        return fold(network)
    if VARIANTS[name].fused:
        network.fuse_sums(best_kernels())
    if VARIANTS[name].checkpointed:
        network.checkpoint_sums()
    return network


def _memory_meter(device: torch.device) -> Callable[[], int]:
    """Start to watch memory; return a function that returns the peak in bytes above the start."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        return lambda: torch.cuda.max_memory_allocated() - before
    if sys.platform != "linux":
        raise UsageError("Peak memory is read from /proc.", "Profile on Linux or on a GPU.")
    # Return freed memory to the system first: its reuse would not be seen.
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    before = _proc_status("VmRSS")
    return lambda: _proc_status("VmHWM") - before


def _proc_status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise Failure(f"/proc/self/status has no {field}.", "Profile on another machine.")
