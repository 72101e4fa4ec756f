"""What is asked of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from delugeserve.errors import UsageError
from delugeserve.system import hardware
from delugeserve.training.recipes import Recipe

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class RunConfig:
    """What was asked of a run; a resumed run must be asked the same.

    A field that is added needs a default that is what was done before, here as in a recipe: it
    stands for the field in runs of before.

    Attributes:
        model: name of the model.
        recipe: how to train.
        seed: of the initial weights, the order of the images and the augmentation.
        precision: of the matrix products; weights stay fp32.
        data: where the images come from.
        limit: how many training images are used; None means all.
        accumulate: batches whose gradients are added up to one optimiser step. The recipe's batch
            is divided among them, so that each takes less memory.
        sync_batchnorm: whether BatchNorm takes its statistics over all processes.
        deterministic: whether only algorithms that repeat to the bit are used.
        compile: whether the training step goes through ``torch.compile``.
        fuse_sums: whether the cross-layer sums alone are compiled, each into one pass.
        checkpoint_sums: whether they are computed again in the backward pass, to save memory.
        initial_checkpoint: a checkpoint of the same model whose weights it starts from; None means
            random weights.
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


def resolve_precision(precision: Precision | Literal["auto"]) -> Precision:
    """Turn ``auto`` into bf16 where the processor or GPU computes it natively.

    Raises:
        UsageError: fp16 is asked for without a GPU.
    """
    # Here, so that runs can be read without torch.
    import torch

    gpu = torch.cuda.is_available()
    if precision == "fp16" and not gpu:
        raise UsageError("--precision fp16 needs a GPU.", "Choose bf16 or fp32.")
    if precision != "auto":
        return precision
    # Emulated, which PyTorch counts unless it is told otherwise, bf16 is slower than fp32.
    native = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if gpu
        else hardware.has_native_bf16()
    )
    return "bf16" if native else "fp32"
