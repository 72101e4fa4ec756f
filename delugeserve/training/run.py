"""One training run, from data to checkpoint."""

from __future__ import annotations

import dataclasses
import json
import logging
import platform
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import lightning
import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    SequentialSampler,
    TensorDataset,
)

from delugeserve import __version__, hardware
from delugeserve.checkpoint import Checkpoint, save_checkpoint
from delugeserve.data.datasets import LabelledImages, load_images
from delugeserve.errors import DatasetError, TrainingError, UsageError
from delugeserve.evaluation import Evaluation, evaluate, network_classifier
from delugeserve.networks.build import build_network
from delugeserve.training.averaging import moving_average
from delugeserve.training.log import EpochLog
from delugeserve.training.module import Batch, TrainingModule
from delugeserve.training.recipes import Recipe
from delugeserve.zoo import ModelSpec

Precision = Literal["auto", "fp32", "bf16"]
STATE_FILE = "last.ckpt"
LOG_FILE = "log.csv"
CONFIG_FILE = "run.json"


@dataclass(frozen=True)
class RunConfig:
    """What was asked of a run; a resumed run must be asked the same.

    Attributes:
        model: name of the model.
        recipe: how to train.
        seed: of the initial weights, the order of the images and the augmentation.
        precision: of the matrix products: ``fp32`` or ``bf16`` (weights stay fp32).
        data: where the images come from.
        limit: how many training images are used; None means all.
        compile: whether the training step goes through ``torch.compile``.
    """

    model: str
    recipe: Recipe
    seed: int
    precision: Literal["fp32", "bf16"]
    data: str
    limit: int | None = None
    compile: bool = False


def resolve_precision(precision: Precision) -> Literal["fp32", "bf16"]:
    """Turn ``auto`` into bf16 where the processor or GPU computes it natively."""
    if precision != "auto":
        return precision
    native = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else None
    return "bf16" if (hardware.has_native_bf16() if native is None else native) else "fp32"


def train(
    spec: ModelSpec,
    config: RunConfig,
    output: Path,
    *,
    resume: bool = False,
    progress: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Path, Evaluation]:
    """Train a network and write its checkpoint.

    Args:
        spec: the network.
        config: everything that decides the result.
        output: the run's folder: ``run.json``, ``log.csv``, the state to resume from, and in the
            end ``<model>.safetensors``.
        resume: go on with the run in ``output``, from the last whole epoch.
        progress: show a progress bar.
        say: prints one line.

    Returns:
        The checkpoint's path, and the network's error on the test split.

    Raises:
        UsageError: ``output`` holds a run already, or none to resume, or one asked otherwise.
        DatasetError: the images cannot be read.
        TrainingError: the loss is no number any more, or the disk is full.
    """
    check_folder(output, config, resume=resume)
    train_data = load_images(config.data, "train", spec.dataset, limit=config.limit)
    test_data = load_images(config.data, "test", spec.dataset)
    if test_data.fingerprint == train_data.fingerprint:
        raise DatasetError(
            f"{config.data} gives the same images for training and for testing.",
            "Give a folder with a train and a test split.",
        )
    _start_folder(output, config)
    say(f"{len(train_data.labels):,} training and {len(test_data.labels):,} test images")

    module = TrainingModule(
        build_network(spec, seed=config.seed), spec.dataset, config.recipe, config.seed
    )
    if config.compile:
        module.network.compile()
    state = output / STATE_FILE
    with _quiet_lightning():
        trainer = _trainer(config, output, say, progress=progress)
        try:
            trainer.fit(
                module,
                _train_batches(train_data, config),
                _test_batches(test_data),
                ckpt_path=state if resume and state.is_file() else None,
                weights_only=True,
            )
        except OSError as error:
            raise TrainingError(
                f"The run's state could not be saved: {error}.",
                "Free some space, then run the same command with --resume.",
            ) from error
    if trainer.interrupted:
        raise KeyboardInterrupt

    evaluation = evaluate(network_classifier(module.network, spec.dataset), test_data)
    path = output / f"{spec.name}.safetensors"
    save_checkpoint(
        Checkpoint(
            spec,
            train_data.class_names,
            module.network.state_dict(),
            recipe=dataclasses.asdict(config.recipe) | {"seed": config.seed},
            data={
                "source": Path(config.data).name,
                "train_images": len(train_data.labels),
                "train_fingerprint": train_data.fingerprint,
                "test_fingerprint": test_data.fingerprint,
            },
            metrics=dataclasses.asdict(evaluation),
            environment=_environment(config),
        ),
        path,
    )
    return path, evaluation


def check_folder(output: Path, config: RunConfig, *, resume: bool) -> None:
    """Check that a run can be started, or resumed, in a folder."""
    file = output / CONFIG_FILE
    if not resume:
        if file.exists():
            raise UsageError(
                f"{output} already holds a run.",
                "Add --resume to go on with it, or choose another --output.",
            )
        return
    if not file.is_file():
        raise UsageError(f"{output} holds no run to resume.", "Leave --resume away to start one.")
    wanted, found = _as_json(config), json.loads(file.read_text(encoding="utf-8"))
    changed = [key for key in wanted if wanted[key] != found.get(key)]
    if changed:
        raise UsageError(
            f"The run in {output} was started with another {', '.join(changed)}.",
            f"Repeat the options it was started with; they are in {file}.",
        )


def _start_folder(output: Path, config: RunConfig) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        text = json.dumps(_as_json(config), indent=2)
        (output / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{output} cannot be written: {error}.", "Choose another --output."
        ) from error


def _as_json(config: RunConfig) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return values


def _trainer(
    config: RunConfig, output: Path, say: Callable[[str], None], *, progress: bool
) -> pl.Trainer:
    # The log comes before the state: a kill between the two costs a repeated row, never a lost one.
    callbacks: list[Callback] = [
        EpochLog(output / LOG_FILE, say),
        ModelCheckpoint(output, Path(STATE_FILE).stem, monitor=None, enable_version_counter=False),
    ]
    if config.recipe.ema_decay:
        callbacks.append(moving_average(config.recipe.ema_decay))
    if progress:
        callbacks.append(TQDMProgressBar())
    return pl.Trainer(
        accelerator="auto",
        devices=1,
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        max_epochs=config.recipe.epochs,
        callbacks=callbacks,
        logger=False,
        num_sanity_val_steps=0,
        enable_progress_bar=progress,
        enable_model_summary=False,
        default_root_dir=output,
        detect_anomaly=False,
        use_distributed_sampler=False,
    )


def _train_batches(data: LabelledImages, config: RunConfig) -> DataLoader[Batch]:
    dataset = _tensors(data)
    # Shuffles by seed and epoch alone, so that a resumed run sees the same order.
    order: DistributedSampler[Any] = DistributedSampler(
        dataset, num_replicas=1, rank=0, shuffle=True, seed=config.seed
    )
    drop_last = len(data.labels) >= config.recipe.batch_size
    return DataLoader(
        dataset,
        sampler=_EpochBatches(order, config.recipe.batch_size, drop_last),
        batch_size=None,
    )


def _test_batches(data: LabelledImages) -> DataLoader[Batch]:
    batches = BatchSampler(SequentialSampler(data.labels), 250, drop_last=False)
    return DataLoader(_tensors(data), sampler=batches, batch_size=None)


def _tensors(data: LabelledImages) -> Dataset[Batch]:
    # Indexed with whole batches of indices: one gather, no worker processes.
    tensors = TensorDataset(torch.from_numpy(data.images), torch.from_numpy(data.labels))
    return cast("Dataset[Batch]", tensors)


class _EpochBatches(BatchSampler):
    """Batches of indices whose order Lightning moves on at every epoch."""

    sampler: DistributedSampler[Any]

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence what Lightning says of its own settings; ours are deliberate."""
    loggers = [
        logging.getLogger(f"lightning.pytorch{part}") for part in ("", ".utilities.rank_zero")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _environment(config: RunConfig) -> dict[str, str]:
    return {
        "delugeserve": __version__,
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "python": platform.python_version(),
        "machine": hardware.describe(),
        "precision": config.precision,
    }
