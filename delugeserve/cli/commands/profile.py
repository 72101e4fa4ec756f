"""``delugeserve profile``: memory and speed of a network's forms, beside the paper's figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from delugeserve.cli.render.console import err_console, print_json, print_table
from delugeserve.errors import UnknownNameError, require
from delugeserve.system.hardware import describe
from delugeserve.zoo import find_model

if TYPE_CHECKING:
    from delugeserve.studies.profiling import Phase, Samples

_PRECISIONS = ("auto", "fp32", "bf16")

# Section 5: Wide-DelugeNet-146, CIFAR-100, batch 32, on a GPU; gigabytes.
_PAPER = {
    "Wide-DelugeNet-146": {"training": 2.8, "inference": 0.61},
    "its ResNet-like baseline": {"training": 1.3, "inference": 0.44},
    "DenseNet-BC (k = 40)": {"training": 8.4, "inference": 1.1},
}


def command(
    model: Annotated[str, typer.Option(help="Name of the model; see 'models'.")],
    batch: Annotated[int, typer.Option(min=2, help="Images in a step.")] = 32,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or auto.")] = "auto",
    variants: Annotated[
        str | None,
        typer.Option(
            help="Measure these forms only, a list of per-reader, once, fused, checkpointed, "
            "fused-checkpointed, folded and baseline, with commas.",
            show_default="all",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 3,
    json: Annotated[bool, typer.Option("--json", help="Print every sample as JSON.")] = False,
) -> None:
    """Measure memory and speed of a DelugeNet's forms, in training and inference."""
    spec = find_model(model)
    if precision not in _PRECISIONS:
        raise UnknownNameError("precision", precision, _PRECISIONS)
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
    resolved = resolve_precision(precision)  # type: ignore[arg-type]
    samples = profile(
        spec,
        batch,
        resolved,  # type: ignore[arg-type]
        chosen,
        rounds=rounds,
        say=lambda line: err_console.print(f"[dim]{line}[/]"),
    )
    title = f"{spec.name}, batch {batch}, {resolved}, {_where()}"
    if json:
        print_json(
            {
                "model": spec.name,
                "batch": batch,
                "precision": resolved,
                "machine": _where(),
                "rounds": rounds,
                "measured": [
                    {
                        "phase": phase,
                        "variant": name,
                        "samples": [asdict(sample) for sample in of_rounds],
                    }
                    for (phase, name), of_rounds in samples.items()
                ],
                "paper_gb": _PAPER,
            }
        )
        return
    _print_measured(samples, batch, title)
    print_table(
        ("network", "training", "inference"),
        ((name, f"{gb['training']}", f"{gb['inference']}") for name, gb in _PAPER.items()),
        title="the paper's figures, not ours: GB on a GPU, CIFAR-100, batch 32",
    )


def _print_measured(samples: Samples, batch: int, title: str) -> None:
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
                    f"{batch / median(sample.seconds for sample in of_rounds):.1f}",
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
        f"CPU s: of all cores for a step; "
        f"speed, memory: ratios to {REFERENCE} within a round, median (lowest..highest)",
        soft_wrap=True,
    )
    for name in dict.fromkeys(name for _, name in samples):
        err_console.print(f"{name}: {VARIANTS[name].title}", soft_wrap=True)


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f}..{max(values):.2f})"


def _where() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else describe()
