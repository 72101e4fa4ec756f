"""The settings of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from delugeserve.data.options import VAL_FRACTION
from delugeserve.errors import UsageError
from delugeserve.system import hardware
from delugeserve.training.recipes import Recipe
from delugeserve.zoo import ModelSpec, Task, find_model

Precision = Literal["fp32", "bf16", "fp16"]
Normalisation = Literal["data", "imagenet", "cifar10"]
Measured = Literal["validation", "test"]
LoggerName = Literal["none", "csv", "tensorboard", "wandb", "mlflow"]


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
        fuse_sums: whether the cross-layer sums, and on a CPU the BatchNorms, have fused kernels.
        checkpoint_sums: whether they are computed again in the backward pass, to save memory.
        initial_checkpoint: path, run folder or model name of the weights to start from; None for
            random weights.
        name: name of the trained network; None for the model's.
        task: the classes, sizes and normalisation of data of the user's own; None for the model's
            registered task.
        val_fraction: part of the training images that is held out, and measured after every epoch.
            0 for a registered task measures the test images instead. Without effect on data that
            has a validation split.
        watch_limit: number of test images that are measured after every epoch, where these are
            watched; None for all. The final errors are always of all.
        freeze: whether only the classifier is trained, on an initial checkpoint.
        extended: for a run that was resumed with more epochs: the numbers of epochs that it had
            before, in order.
        fixed_sums: whether the cross-layer weights keep their initial value, ``1 / L`` for L
            inputs; a variant of the ablation.
        teacher: checkpoint of a trained network whose probabilities are learned too, in the share
            that the recipe gives; None for none.
        logger: the experiment tracker that gets the metrics too; a resumed run may have another.
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
    name: str | None = None
    task: Task | None = None
    val_fraction: float = 0.0
    watch_limit: int | None = None
    freeze: bool = False
    extended: tuple[int, ...] = ()
    fixed_sums: bool = False
    teacher: str | None = None
    logger: LoggerName = "none"

    @property
    def watched(self) -> Measured:
        """The split that is measured after every epoch: the test split in the paper's manner only.

        That is for a registered task without images held out.
        """
        return "validation" if self.task or self.val_fraction else "test"

    @property
    def network_name(self) -> str:
        """The name of the trained network, and of its checkpoint."""
        return self.name or self.model

    def network(self) -> ModelSpec:
        """Return the network, its task included.

        Raises:
            UnknownNameError: there is no such model.
        """
        model = find_model(self.model)
        return replace(
            model,
            name=self.network_name,
            task=self.task or model.task,
            published=None if self.task else model.published,
        )


@dataclass(frozen=True)
class TaskOptions:
    """What a person asks for; None for the default.

    Attributes:
        name: of the trained network. By default the model's for its own task, else the name of
            the run's folder.
        image_size: height and width of the network's input, in pixels. By default that of the
            initial checkpoint, else the model's.
        normalise: mean and standard deviation of the pixels: those of the training images, of
            ImageNet or of CIFAR-10. By default those of the initial checkpoint, else the training
            images'.
    """

    name: str | None = None
    image_size: int | None = None
    normalise: Normalisation | None = None


# The test images of these were measured after every epoch when their results were published.
_WATCH_TEST = ("cifar", "imagenet", "cifar-quick")


def default_val_fraction(recipe: Recipe, *, own_task: bool) -> float:
    """Return the part of the training images that is held out unless the user says otherwise.

    None for the recipes ``cifar``, ``imagenet`` and ``cifar-quick`` on a registered task: their
    published results come from all training images.
    """
    return VAL_FRACTION if own_task or recipe.name not in _WATCH_TEST else 0.0


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
    if spec.architecture.baseline and config.checkpoint_sums:
        raise UsageError(f"{spec.name} has no cross-layer sums.", "Leave out --checkpoint-sums.")
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
