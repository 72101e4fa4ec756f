"""Options of ``delugeserve train``, except those that override a recipe's values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from delugeserve.cli.options import (
    MODEL_HELP,
    PRECISION_HELP,
    RecipeName,
    TrainingPrecision,
    complete_models,
    with_default,
)
from delugeserve.cli.recipe_options import panel_option
from delugeserve.data.unreadable import OnUnreadable
from delugeserve.training.config import LoggerName, Normalisation

_DATA, _MACHINE = "Data", "Memory, speed and GPUs"

ModelOption = Annotated[
    str | None,
    typer.Option(help=f"{MODEL_HELP} [dim]\\[required]", autocompletion=complete_models),
]

DataSource = Annotated[
    str | None,
    typer.Option(
        envvar="DELUGESERVE_DATA",
        help="Data set: class folders, CSV or parquet files, WebDataset or CIFAR archives, or a "
        "name on the Hugging Face Hub, such as cifar10 or owner/name. [dim]\\[required]",
    ),
]

RunFolder = Annotated[
    Path | None,
    typer.Option(
        help="Run folder to create, such as runs/first: checkpoint, settings, log and curves. "
        "[dim]\\[required]"
    ),
]

ResumedRun = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="Continue the run in this folder, with its own settings; no other option is "
        "needed. With --epochs N, train it for N epochs in all.",
    ),
]

RecipeOption = Annotated[
    RecipeName | None,
    typer.Option(
        help=with_default(
            "Training recipe; 'cifar' and 'imagenet' are the paper's. Its values are the "
            "defaults below.",
            "imagenet for ImageNet; photos for other images of more than 64 pixels; "
            "cifar-quick for smaller ones; finetune with --initial-checkpoint for other classes",
        ),
        show_default=False,
    ),
]

InitialCheckpoint = Annotated[
    str | None,
    typer.Option(
        help=with_default(
            "Start from these weights: a checkpoint or run folder of the same architecture, or a "
            "model's name for its pretrained weights. Classes, size and normalisation may differ.",
            "random weights",
        ),
        show_default=False,
    ),
]
TeacherOption = Annotated[
    str | None,
    typer.Option(
        help=with_default(
            "Learn from a trained network as well as from the labels (distillation): a checkpoint, "
            "a run folder, or a model with pretrained weights. It must have the same classes.",
            "none",
        ),
        show_default=False,
    ),
]

Freeze = Annotated[
    bool,
    typer.Option(
        "--freeze", help="Train the classifier alone; the other weights stay as they are."
    ),
]

NetworkName = Annotated[
    str | None,
    typer.Option(
        help=with_default(
            "Name of the trained network: of its checkpoint, and of the served model.",
            "the model's on its own data set, otherwise the run folder's",
        ),
        show_default=False,
    ),
]

Seed = Annotated[
    int,
    typer.Option(min=0, help="Random seed of the weights, the image order and the augmentation."),
]

ImageSize = Annotated[
    int | None,
    panel_option(
        "Height and width of the network's input, in pixels. Images are resized to it.",
        _DATA,
        default="the initial checkpoint's, otherwise the model's",
        min=1,
        metavar="PIXELS",
    ),
]

Normalise = Annotated[
    Normalisation | None,
    panel_option(
        "Mean and standard deviation of the pixels: measured on the training images, or "
        "ImageNet's or CIFAR-10's.",
        _DATA,
        default="the initial checkpoint's, otherwise 'data'; a model's own for its data set",
    ),
]

ValFraction = Annotated[
    float | None,
    panel_option(
        "Part of the training images to hold out for validation, if the data has no "
        "validation split.",
        _DATA,
        default="0.1; 0 for the recipes cifar, cifar-quick and imagenet on their data sets",
        min=0,
        max=0.5,
    ),
]

Limit = Annotated[
    int | None, panel_option("Train on the first N images only.", _DATA, min=2, metavar="N")
]

OnUnreadableOption = Annotated[
    OnUnreadable,
    panel_option("Stop at an image that cannot be decoded, or skip it.", _DATA),
]

Workers = Annotated[
    int | None,
    panel_option(
        "Data-loading workers for each training process, for images of more than 64 pixels.",
        _DATA,
        default="an equal share of the cores",
        min=0,
    ),
]

Logger = Annotated[
    LoggerName,
    typer.Option(
        metavar="TRACKER",
        help="Experiment tracker that gets the metrics too, beside the run's log.csv: csv, "
        "tensorboard, wandb or mlflow.",
    ),
]

PrecisionOption = Annotated[
    TrainingPrecision,
    panel_option(PRECISION_HELP, _MACHINE),
]

Accumulate = Annotated[
    int, panel_option("Gradient accumulation: batches per optimiser step.", _MACHINE, min=1)
]

Compiled = Annotated[
    bool, panel_option("Compile the training step (needs a C++ compiler).", _MACHINE, "--compile")
]

FuseSums = Annotated[
    bool,
    panel_option(
        "Fuse cross-layer sums, on a CPU also BatchNorms (needs a C++ compiler).",
        _MACHINE,
        "--fuse-sums",
    ),
]

CheckpointSums = Annotated[
    bool,
    panel_option(
        "Recompute the cross-layer sums in the backward pass: less memory, more time.",
        _MACHINE,
        "--checkpoint-sums",
    ),
]

Deterministic = Annotated[
    bool,
    panel_option("Use deterministic algorithms only.", _MACHINE, "--deterministic"),
]

SyncBatchnorm = Annotated[
    bool,
    panel_option("Use SyncBatchNorm: statistics over all processes.", _MACHINE, "--sync-batchnorm"),
]
