"""Section of `gpu_run.py`: the fused cross-layer sums, their gradients and their memory bandwidth.

The kernels are checked against float64: in float32 they must be exact to rounding, in bf16 the
compiled ones, which accumulate in float32, no worse than the plain ones. Then they are timed as in
`gpu.py`, with the fewest, a middle number and the most inputs of each block of DelugeNet-92.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import common
import cross_layer_sums as sums
import numpy as np
import torch
from gpu import BATCH, COPY, NETWORK
from gpu_job import Job
from torch import Tensor

from delugeserve.errors import Failure
from delugeserve.networks.fused import Kernels, weighted_sum, weighted_sum_gradients
from delugeserve.zoo import find_model

EXACT = 1e-5  # relative error in float32
INPUTS = (1, 2, 8, 9, 24)  # one pass, a full one, and more
SHAPES = ((8, 128, 14, 14), (3, 24, 7, 5))


def measure_sums(job: Job) -> None:
    kernels = sums.available_kernels(job.device)
    # Each dtype is compiled anew, in seconds on a GPU and half a minute on a busy processor.
    for dtype in (torch.bfloat16,) if job.smoke else (torch.float32, torch.bfloat16):
        check_gradients(job, kernels, dtype)
    measure_bandwidth(job, kernels)


def check_gradients(job: Job, kernels: Sequence[Kernels], dtype: torch.dtype) -> None:
    """Compare sums and gradients with those in float64.

    Raises:
        Failure: the compiled kernels are wrong.
    """
    errors: dict[Kernels, float] = dict.fromkeys(kernels, 0.0)
    generator = torch.Generator(job.device).manual_seed(0)
    for shape in SHAPES:
        for number in INPUTS:
            drawn = torch.randn(
                number + 1, *shape, generator=generator, device=job.device, dtype=torch.float32
            ).to(dtype)
            images = [image.contiguous(memory_format=torch.channels_last) for image in drawn]
            weight = torch.randn(number, shape[1], generator=generator, device=job.device)
            expected = results(images, weight, "plain", torch.float64)
            for name in kernels:
                pairs = zip(results(images, weight, name), expected, strict=True)
                worst = max(((a.double() - b).norm() / b.norm()).item() for a, b in pairs)
                errors[name] = max(errors[name], worst)
    title = str(dtype).removeprefix("torch.")
    text = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    job.add(
        {"check": "gradients", "dtype": title, "relative_errors": errors},
        f"sums and gradients in {title}, largest relative error against float64: {text}",
    )
    allowed = EXACT if dtype is torch.float32 else max(sums.AGREE, errors["plain"])
    if not max(errors.values()) <= allowed:
        raise Failure(f"The sums in {title} are wrong.", "Do not train with --fuse-sums here.")


def results(
    images: Sequence[Tensor], weight: Tensor, kernels: Kernels, dtype: torch.dtype | None = None
) -> tuple[Tensor, ...]:
    """Return a sum of all images but the first, and the gradients if all read the first."""
    if dtype:
        images, weight = [image.to(dtype) for image in images], weight.to(dtype)
    x, *others = images
    total = weighted_sum(others, weight, weight.mean(0), kernels)
    return total, *weighted_sum_gradients(x, others, weight, kernels)


def measure_bandwidth(job: Job, kernels: Sequence[Kernels]) -> None:
    """Compare the GB/s of sums and gradients with those of a copy, in the same rounds."""
    clock = sums.CLOCKS[job.device]
    rounds, seconds = (1, 0.01) if job.smoke else (5, 0.02)
    batch, span = (2, 1 << 22) if job.smoke else (BATCH, sums.SPAN)
    copying = sums.copy_work(job.device, span)
    for shape, outputs in list(sums.block_shapes(find_model(NETWORK), batch))[::-1]:
        tensors = sums.draw_tensors(shape, outputs + 1, span, job.device)
        for make, numbers in (
            (sums.forward_work, (2, outputs // 2, outputs)),
            (sums.backward_work, (1, outputs // 2, outputs - 1)),
        ):
            for number in numbers:
                works = {COPY: copying, **make(tensors, number, kernels)}
                contestants = {
                    name: partial(sums.gigabytes_per_s, work, clock, seconds)
                    for name, work in works.items()
                }
                samples = common.interleave("", contestants, rounds, quiet=True)
                direction = make.__name__.partition("_")[0]
                rates = {name: common.median_of(samples, name) for name in samples}
                fractions = {
                    name: float(np.median(np.divide(samples[name], samples[COPY])))
                    for name in samples
                    if name != COPY
                }
                text = ", ".join(f"{name} {part:.2f}" for name, part in fractions.items())
                job.add(
                    {
                        "direction": direction,
                        "shape": shape,
                        "tensors": number,
                        "GB/s": rates,
                        "fraction_of_copy": fractions,
                        "samples": {n: [round(v, 2) for v in samples[n]] for n in samples},
                    },
                    f"{direction}, {' x '.join(map(str, shape))}, {number} tensors: "
                    f"copy {rates[COPY]:,.0f} GB/s; fraction of it: {text}",
                )
                if job.smoke:
                    return
                if job.left() < 5:
                    job.skip("other shapes", "no time is left")
                    return
