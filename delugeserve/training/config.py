"""The settings of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from delugeserve.errors import UsageError
from delugeserve.system import hardware
from delugeserve.training.recipes import Recipe
from delugeserve.zoo import ModelSpec

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class RunConfig:
    """The settings of a run; a resumed run must have the same.

    A new field needs a default that is what earlier versions did, as in a recipe: their runs are
    read with it.

    Attributes:
        model: name of the model.
        recipe: how to train.
        seed: seed of the initial weights, the order of the images and the augmentation.
        precision: of matrix products in training steps; weights stay fp32, and tests compute in
            fp32.
        data: the data set: a path or a public data set's name.
        limit: number of training images; None for all.
        accumulate: number of batches whose gradients are added up to one optimiser step. The
            recipe's batch is divided among them, so that each takes less memory.
        sync_batchnorm: whether BatchNorm takes its statistics over all processes.
        deterministic: whether only algorithms are used that repeat bit for bit.
        compile: whether the training step goes through ``torch.compile``.
        fuse_sums: whether the cross-layer sums alone are compiled, each into one pass.
        checkpoint_sums: whether they are computed again in the backward pass, to save memory.
        initial_checkpoint: path, run folder or model name of the weights to start from; None for
            random weights.
        extended: for a run that was resumed with more epochs: the numbers of epochs that it had
            before, in order.
        fixed_sums: whether the cross-layer weights keep their initial value, ``1 / L`` for L
            inputs; a variant of the ablation.
    """

    model: str
    recipe: Recipe
    seed: int
    precision: Precision
    data: str
    limit: int | None = None
    accumulate: int = 1
    sync_batchnorm: bool = False
    deterministic: bool = False
    compile: bool = False
    fuse_sums: bool = False
    checkpoint_sums: bool = False
    initial_checkpoint: str | None = None
    extended: tuple[int, ...] = ()
    fixed_sums: bool = False


def resolve_precision(precision: Precision | Literal["auto"]) -> Precision:
    """Turn ``auto`` into bf16 where the processor or GPU computes it natively.

    Raises:
        UsageError: fp16 is requested without a GPU.
    """
    # Here, so that runs can be read without torch.
    import torch

    gpu = torch.cuda.is_available()
    if precision == "fp16" and not gpu:
        raise UsageError("--precision fp16 needs a GPU.", "Use --precision bf16 or fp32.")
    if precision != "auto":
        return precision
    # PyTorch counts emulated bf16 by default, which is slower than fp32.
    native = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if gpu
        else hardware.has_native_bf16()
    )
    return "bf16" if native else "fp32"


def check_sums(spec: ModelSpec, config: RunConfig) -> None:
    """Check that ``fuse_sums`` and ``checkpoint_sums`` have an effect and go with the rest.

    Raises:
        UsageError: they do not.
    """
    given = [
        f"--{name.replace('_', '-')}"
        for name in ("fuse_sums", "checkpoint_sums")
        if getattr(config, name)
    ]
    if not given:
        return
    leave_out = f"Leave out {' and '.join(given)}"
    if spec.architecture.baseline:
        raise UsageError(f"{spec.name} has no cross-layer sums.", f"{leave_out}.")
    if config.compile:
        raise UsageError(
            f"--compile already decides what {' and '.join(given)} would.",
            f"{leave_out}, or --compile.",
        )
    if config.checkpoint_sums and config.sync_batchnorm:
        raise UsageError(
            "--checkpoint-sums computes statistics twice, and --sync-batchnorm cannot share them.",
            "Leave out --checkpoint-sums or --sync-batchnorm.",
        )
