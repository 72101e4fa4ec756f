"""``delugeserve profile``: memory and speed of a network's implementations, and the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from delugeserve.cli.options import (
    MODEL_HELP,
    PRECISION_HELP,
    Csv,
    Json,
    check_output_file,
    complete_models,
    with_default,
)
from delugeserve.cli.render.console import err_console, print_json, print_table
from delugeserve.cli.render.csv_file import write_csv
from delugeserve.cli.render.progress import show_progress
from delugeserve.errors import UnknownNameError
from delugeserve.system.hardware import describe
from delugeserve.system.imports import require
from delugeserve.zoo import find_model

if TYPE_CHECKING:
    from delugeserve.studies.profiling import Phase, Samples

# Section 5: Wide-DelugeNet-146, CIFAR-100, batch 32, on a GPU; gigabytes.
_PAPER = {
    "Wide-DelugeNet-146": {"training": 2.8, "inference": 0.61},
    "its ResNet-like baseline": {"training": 1.3, "inference": 0.44},
    "DenseNet-BC (k = 40)": {"training": 8.4, "inference": 1.1},
}


def command(
    model: Annotated[str, typer.Option(help=MODEL_HELP, autocompletion=complete_models)],
    batch_size: Annotated[int, typer.Option(min=2, help="Images per step.")] = 32,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        typer.Option(help=PRECISION_HELP),
    ] = "auto",
    variants: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help=with_default(
                "Variants to measure: per-reader (as the authors: every layer normalises its "
                "inputs), once (each output is normalised once), fused (once, its sums "
                "compiled), checkpointed (once, its sums recomputed in the backward pass), "
                "fused-checkpointed, folded (for inference: BatchNorm folded into convolutions), "
                "baseline (ResNet-like).",
                "all",
            ),
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each variant.")] = 3,
    csv: Csv = None,
    json: Json = False,
    batch: Annotated[int | None, typer.Option(min=2, hidden=True)] = None,
) -> None:
    """Measure memory and speed of implementations of a DelugeNet, in training and inference."""
    spec = find_model(model)
    batch_size = batch or batch_size
    if csv is not None:
        check_output_file(csv)
    require("torch", "train")
    from delugeserve.networks.fused import require_compiler
    from delugeserve.studies.profiling import VARIANTS, profile
    from delugeserve.training.config import resolve_precision

    chosen = list(dict.fromkeys(variants.split(","))) if variants else list(VARIANTS)
    for name in chosen:
        if name not in VARIANTS:
            raise UnknownNameError("variant", name, VARIANTS)
    if any(VARIANTS[name].fused for name in chosen):
        require_compiler()
    resolved = resolve_precision(precision)
    with show_progress() as progress:
        samples = profile(
            spec,
            batch_size,
            resolved,  # type: ignore[arg-type]
            chosen,
            rounds=rounds,
            progress=progress,
        )
    if csv is not None:
        write_csv(
            csv,
            ("phase", "variant", "round", "seconds", "cpu_seconds", "peak_bytes"),
            (
                (phase, name, number, sample.seconds, sample.cpu_seconds, sample.peak_bytes)
                for (phase, name), of_rounds in samples.items()
                for number, sample in enumerate(of_rounds, 1)
            ),
        )
        err_console.print(f"written to {csv}", markup=False)
    if json:
        print_json(
            {
                "model": spec.name,
                "batch": batch_size,
                "precision": resolved,
                "machine": _machine(),
                "rounds": rounds,
                "measured": _describe(samples),
                "paper_gb": _PAPER,
            }
        )
        return
    _print_measured(
        samples, batch_size, f"{spec.name}, batch size {batch_size}, {resolved}, {_machine()}"
    )
    print_table(
        ("network", "training", "inference"),
        ((name, f"{gb['training']}", f"{gb['inference']}") for name, gb in _PAPER.items()),
        title="the paper's figures: GB on a GPU, CIFAR-100, batch size 32",
    )


def _describe(samples: Samples) -> list[dict[str, Any]]:
    return [
        {"phase": phase, "variant": name, "samples": [asdict(sample) for sample in of_rounds]}
        for (phase, name), of_rounds in samples.items()
    ]


def _print_measured(samples: Samples, batch_size: int, title: str) -> None:
    from delugeserve.studies.profiling import REFERENCE, VARIANTS, memory_ratio, speed_ratio

    def ratios(phase: Phase, name: str) -> tuple[str, str]:
        if (phase, REFERENCE) not in samples:
            return "-", "-"
        return (
            _spread(speed_ratio(samples, phase, name)),
            _spread(memory_ratio(samples, phase, name)),
        )

    for phase in dict.fromkeys(phase for phase, _ in samples):
        print_table(
            ("variant", "images/s", "CPU s", "speed", "peak MB", "memory"),
            (
                (
                    name,
                    f"{batch_size / median(sample.seconds for sample in of_rounds):.1f}",
                    f"{median(sample.cpu_seconds for sample in of_rounds):.3f}",
                    ratios(phase, name)[0],
                    f"{median(sample.peak_bytes for sample in of_rounds) / 1e6:.0f}",
                    ratios(phase, name)[1],
                )
                for (one, name), of_rounds in samples.items()
                if one == phase
            ),
            title=f"{title}: {phase}",
        )
    err_console.print(
        "CPU s: CPU seconds per step, all cores; "
        f"speed, memory: ratio to {REFERENCE} in the same round, median (lowest..highest)"
    )
    for name in dict.fromkeys(name for _, name in samples):
        err_console.print(f"{name}: {VARIANTS[name].title}")


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f}..{max(values):.2f})"


def _machine() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else describe()
