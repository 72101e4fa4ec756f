"""Section of `gpu_run.py`: peak memory of Wide-DelugeNet-146 at batch 32, beside the paper's.

The forms are those of `delugeserve profile` and measured as there: the peak includes weights,
gradients and optimiser, but not the CUDA context and libraries. `allocated` is what tensors and the
workspaces of convolutions occupied at most, `reserved` what PyTorch took from the GPU for them.
`kept` is what autograd keeps from the forward to the backward pass: no workspace counts in it.
"""

from __future__ import annotations

import gc

import torch
from gpu_job import Job, first_line

from delugeserve.networks.fused import require_compiler
from delugeserve.studies.profiling import VARIANTS, Phase, Precision, build_variant, measure
from delugeserve.zoo import ModelSpec, find_model

MODEL, SMOKE_MODEL, BATCH = "wide_delugenet146_cifar100", "delugenet38", 32
PAPER: dict[Phase, float] = {"training": 2.8, "inference": 0.61}  # GB; section 5
STEPS = 5

# The plain form first, and last what is of least interest if time runs out.
ORDER: tuple[tuple[Phase, str], ...] = (
    ("training", "once"),
    ("inference", "once"),
    ("training", "checkpointed"),
    ("training", "fused"),
    ("training", "per-reader"),
    ("inference", "per-reader"),
    ("training", "fused-checkpointed"),
    ("inference", "fused"),
    ("inference", "folded"),
    ("training", "baseline"),
    ("inference", "baseline"),
)
SMOKE_ORDER = ORDER[:3]


def measure_memory(job: Job) -> None:
    spec = find_model(SMOKE_MODEL if job.smoke else MODEL)
    batch = 2 if job.smoke else BATCH
    precisions: tuple[Precision, ...] = ("fp32",) if job.smoke else ("fp32", "bf16")
    for phase, name in SMOKE_ORDER if job.smoke else ORDER:
        for precision in precisions:
            title = f"{phase}, {name}, {precision}"
            if job.left() < 3:
                job.skip(title, "no time is left")
                continue
            try:
                if VARIANTS[name].fused:
                    require_compiler()
                measure_one(job, spec, batch, phase, name, precision)
            except Exception as error:  # one form must not stop the others
                job.skip(title, first_line(error))


def measure_one(
    job: Job, spec: ModelSpec, batch: int, phase: Phase, name: str, precision: Precision
) -> None:
    release(job.device)
    sample = measure(spec, batch, precision, name, phase, 1 if job.smoke else STEPS)
    result = {
        "model": spec.name,
        "batch": batch,
        "phase": phase,
        "form": name,
        "precision": precision,
        "ms": round(1e3 * sample.seconds, 2),
        "allocated_gb": sample.peak_bytes / 1e9,
        "paper_gb": PAPER[phase],
    }
    if job.device == "cuda":
        result["reserved_gb"] = torch.cuda.max_memory_reserved() / 1e9
        if phase == "training":
            result["kept_gb"] = kept_bytes(spec, batch, name, precision) / 1e9
    figures = ", ".join(
        f"{key.removesuffix('_gb')} {value:.2f}"
        for key, value in result.items()
        if key.endswith("_gb")
    )
    job.add(result, f"{phase}, {name}, {precision}: GB {figures}; {result['ms']:.1f} ms a step")


def kept_bytes(spec: ModelSpec, batch: int, name: str, precision: Precision) -> int:
    """Return the bytes that a forward pass keeps for the backward pass on the GPU."""
    release("cuda")
    network = build_variant(spec, name).to("cuda", memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(batch, *spec.input_shape, device="cuda")
    images = images.to(memory_format=torch.channels_last)
    before = torch.cuda.memory_allocated()
    with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
        logits = network(images)
    torch.cuda.synchronize()
    kept = torch.cuda.memory_allocated() - before
    del logits
    return kept


def release(device: str) -> None:
    """Give memory that is no longer used back to the GPU."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
