"""Training and inference on a CPU, with freed memory kept by the process or returned.

    python benchmarks/freed_memory.py [--models delugenet38,wide_delugenet38] [--rounds 5]

Needs the extra `train`, and Linux.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import common

from delugeserve import ModelSpec, find_model
from delugeserve.studies.profiling import Phase, measure

METHOD = """A training step of 128 images in bf16, and inference of 250 images in fp32, in PyTorch
without compilation. Every figure comes from a fresh process: one step on a small network, one step
to warm up, then the median of five. 'kept' uses delugeserve/system/memory.py, 'returned' is the
default of the GNU C library. Memory is the peak resident set beyond that of the libraries."""

PHASES: dict[Phase, tuple[int, str]] = {"training": (128, "bf16"), "inference": (250, "fp32")}
# With a variable of malloc in the environment, memory.py changes nothing; this one has no effect.
CHOICES: dict[str, dict[str, str]] = {"kept": {}, "returned": {"MALLOC_PERTURB_": "0"}}
STEPS = 5
QUICK_BATCH = 8


def step_ms(
    spec: ModelSpec,
    phase: Phase,
    quick: bool,
    environment: dict[str, str],
    peaks: list[float],
) -> float:
    """Return the milliseconds of a step, and append its peak memory in MB to ``peaks``."""
    batch, precision = PHASES[phase]
    size, steps = (QUICK_BATCH, 1) if quick else (batch, STEPS)
    os.environ.update(environment)
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            sample = process.submit(measure, spec, size, precision, "once", phase, steps).result()
    finally:
        for name in environment:
            del os.environ[name]
    peaks.append(sample.peak_bytes / 1e6)
    return 1e3 * sample.seconds


def main() -> None:
    parser = common.options(__doc__, models=["delugenet38", "wide_delugenet38"], rounds=5)
    chosen = common.start(parser, METHOD)
    results = []
    for spec, phase in itertools.product(map(find_model, chosen.models), PHASES):
        peaks: dict[str, list[float]] = {name: [] for name in CHOICES}
        contestants = {
            name: partial(step_ms, spec, phase, chosen.quick, environment, peaks[name])
            for name, environment in CHOICES.items()
        }
        title = f"{spec.name}, {phase}"
        samples = common.interleave(title, contestants, chosen.rounds)
        rows = [
            (
                name,
                common.spread(samples[name]),
                common.ratio(samples, "returned", name),
                common.spread(peaks[name]),
            )
            for name in CHOICES
        ]
        common.show(title, ("freed memory", "ms per step", "speed", "peak MB"), rows)
        results.append({"model": spec.name, "phase": phase, "unit": "ms", "samples": samples})
    common.finish(chosen, results)


if __name__ == "__main__":
    main()
