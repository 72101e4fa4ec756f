"""One training run, from data to checkpoint."""

from __future__ import annotations

import dataclasses
import logging
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn

from delugeserve.data.encoded import EncodedImages
from delugeserve.data.streaming import explain_lost_workers
from delugeserve.errors import (
    DatasetError,
    StoppedError,
    TrainingError,
    UsageError,
    explain_out_of_memory,
)
from delugeserve.evaluation.evaluate import Evaluation, evaluate_batches
from delugeserve.networks.build import build_network
from delugeserve.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from delugeserve.networks.classifier import network_classifier
from delugeserve.networks.delugenet import DelugeNet
from delugeserve.networks.fused import require_compiler
from delugeserve.system.memory import keep_freed_memory
from delugeserve.training import batches
from delugeserve.training.averaging import MovingAverage
from delugeserve.training.batches import Images, Reading
from delugeserve.training.config import Precision, RunConfig
from delugeserve.training.distributed import (
    StopTogether,
    World,
    connected,
    current_world,
    first_alone,
    synchronise_norms,
)
from delugeserve.training.environment import describe_environment
from delugeserve.training.folder import (
    check_folder,
    claimed,
    finish_folder,
    finishing,
    start_folder,
)
from delugeserve.training.log import EpochLog
from delugeserve.training.module import TrainingModule
from delugeserve.training.saving import STATE_FILE, AtomicCheckpointIO, describe_state
from delugeserve.zoo import ModelSpec

_PRECISIONS: dict[Precision, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}

_LESS_MEMORY = "Start again with --accumulate 2, --checkpoint-sums or a smaller --batch-size."


@keep_freed_memory()
def train(
    spec: ModelSpec,
    config: RunConfig,
    output: Path,
    *,
    reading: Reading | None = None,
    resume: bool = False,
    progress: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Path, Evaluation] | None:
    """Train a network and write its checkpoint, alone or as one of the processes of ``torchrun``.

    Args:
        spec: the network.
        config: everything that decides the result.
        output: the run's folder: what was asked and where, the log, the state to resume from, and
            in the end ``<model>.safetensors``, its errors and the learning curves.
        reading: how large images are read; None for the defaults.
        resume: go on with the run in ``output``, from the last whole epoch.
        progress: show a progress bar.
        say: prints one line.

    Returns:
        The checkpoint's path, and the network's error on the test split; None in all processes but
        the first, which is the one that writes.

    Raises:
        UsageError: ``output`` holds a run already, or none to resume, or one asked otherwise, or
            one that is going on; or the batch cannot be divided among the processes.
        DatasetError: the images cannot be read.
        CheckpointError: the state to resume from is damaged or another run's, or the checkpoint to
            start from is missing, damaged or another model's.
        TrainingError: the loss is no number any more, the disk is full, or another process ended,
            one that trains or one that decodes.
        StoppedError: SIGTERM has ended the run.
    """
    world = current_world()
    reading = reading or Reading()
    environment = describe_environment(config.precision) | {"processes": str(world.size)}
    _check_gpus(world)
    _check_sums(spec, config)
    if config.compile or config.fuse_sums:
        require_compiler()

    with ExitStack() as claim:

        def prepare() -> tuple[Checkpoint | None, Images, Images]:
            batches.share_of(config.recipe.batch_size, world, config.accumulate)
            if world.is_first:
                claim.enter_context(claimed(output))
                check_folder(output, config, resume=resume)
            return _read_initial(spec, config), *_read(spec, config, reading)

        with connected(world):
            initial, images, test_images = first_alone(world, prepare)
            loaders = (
                batches.training_batches(images, spec.dataset, config, world, reading),
                batches.test_batches(test_images, spec.dataset, world, reading),
            )
            if world.is_first:
                environment = start_folder(output, config, environment, resume=resume)
                say(f"{len(images):,} training and {len(test_images):,} test images")
            module = _module(spec, config, images, world)
            if initial is not None:
                module.network.load_state_dict(dict(initial.state))
            saved = output / STATE_FILE
            state = saved if resume and saved.is_file() else None
            with _quiet_lightning():
                trainer = _trainer(config, output, world, say, progress=progress)
                with (
                    _stopped_from_outside(trainer),
                    explain_lost_workers(),
                    explain_out_of_memory(_LESS_MEMORY),
                ):
                    trainer.fit(module, *loaders, ckpt_path=state, weights_only=True)
        if not world.is_first:
            return None

        # Lightning has left it on the CPU.
        network = module.network.to(trainer.strategy.root_device)
        with explain_lost_workers():
            evaluation = _evaluate(network, spec, test_images, reading)
        path = output / f"{spec.name}.safetensors"
        del environment["command"]  # names paths of this machine, and the checkpoint is handed on
        checkpoint = Checkpoint(
            spec,
            images.class_names,
            network.state_dict(),
            recipe=_describe_recipe(config, initial),
            data={
                "source": Path(config.data).name,
                "train_images": len(images),
                "train_fingerprint": images.fingerprint,
                "test_fingerprint": test_images.fingerprint,
            },
            metrics=dataclasses.asdict(evaluation),
            environment=environment,
        )
        with finishing(output):
            save_checkpoint(checkpoint, path)
            finish_folder(output, evaluation)
        return path, evaluation


def _check_gpus(world: World) -> None:
    gpus = torch.cuda.device_count()
    if 0 < gpus < world.local_size:
        raise UsageError(
            f"{world.local_size} processes were started, and this machine has {gpus} GPUs.",
            f"Start one for each: torchrun --nproc-per-node {gpus} -m delugeserve train ...",
        )


def _check_sums(spec: ModelSpec, config: RunConfig) -> None:
    if not (config.fuse_sums or config.checkpoint_sums):
        return
    remedy = "Leave --fuse-sums and --checkpoint-sums away"
    if spec.baseline:
        raise UsageError(f"{spec.name} has no cross-layer sums.", f"{remedy}.")
    if config.compile:
        raise UsageError(
            "--compile fuses sums and chooses what to keep by itself.", f"{remedy}, or --compile."
        )
    if config.checkpoint_sums and config.sync_batchnorm:
        raise UsageError(
            "Processes cannot share statistics that --checkpoint-sums computes twice.",
            "Leave --checkpoint-sums or --sync-batchnorm away.",
        )


def _read_initial(spec: ModelSpec, config: RunConfig) -> Checkpoint | None:
    path = config.initial_checkpoint
    return None if path is None else load_checkpoint(Path(path), spec)


def _describe_recipe(config: RunConfig, initial: Checkpoint | None) -> dict[str, Any]:
    """How a network was trained, and how that was whose weights it started from."""
    recipe = dataclasses.asdict(config.recipe) | {"seed": config.seed}
    if initial is not None:
        recipe["initial"] = {"recipe": initial.recipe, "metrics": initial.metrics}
    return recipe


def _read(spec: ModelSpec, config: RunConfig, reading: Reading) -> tuple[Images, Images]:
    file = Path(config.data).expanduser()
    if file.suffix == ".parquet" and file.is_file():
        # It would serve as either split, and with a limit the two would not even be the same.
        raise DatasetError(
            f"{config.data} is a single file, and training takes a train and a test split.",
            "Give a folder with both, such as train.parquet and test.parquet.",
        )
    read = partial(batches.read_split, config.data, dataset=spec.dataset, reading=reading)
    images, test_images = read("train", limit=config.limit), read("test")
    if test_images.fingerprint == images.fingerprint:
        raise DatasetError(
            f"{config.data} gives the same images for training and for testing.",
            "Give a folder with a train and a test split.",
        )
    return images, test_images


def _module(spec: ModelSpec, config: RunConfig, images: Images, world: World) -> TrainingModule:
    augment = None
    if not isinstance(images, EncodedImages):
        augment = batches.augmentation(spec.dataset, config.recipe, config.seed, world)
    network = build_network(spec, seed=config.seed)
    module = TrainingModule(network, spec.dataset, config.recipe, augment)
    if config.sync_batchnorm and world.size > 1:
        synchronise_norms(module)
    if config.compile:
        module.network.compile()
    if isinstance(network, DelugeNet):
        if config.fuse_sums:
            network.fuse_sums()
        if config.checkpoint_sums:
            network.checkpoint_sums()
    return module


def _evaluate(
    network: nn.Module,
    spec: ModelSpec,
    test_images: Images,
    reading: Reading,
) -> Evaluation:
    """Test the network on all images, by this process alone."""
    loader = batches.test_batches(test_images, spec.dataset, World(), reading)
    return evaluate_batches(
        network_classifier(network, spec.dataset),
        ((images.numpy(), labels.numpy()) for images, labels in loader),
        spec.dataset.num_classes,
    )


def _trainer(
    config: RunConfig, output: Path, world: World, say: Callable[[str], None], *, progress: bool
) -> pl.Trainer:
    # The log comes before the state: a kill between the two costs a repeated row, never a lost one.
    callbacks: list[Callback] = [
        EpochLog(output, say),
        ModelCheckpoint(output, Path(STATE_FILE).stem, monitor=None, enable_version_counter=False),
    ]
    if world.size > 1:
        callbacks.append(StopTogether())
    if config.recipe.ema_decay:
        callbacks.append(MovingAverage(config.recipe.ema_decay))
    progress = progress and world.is_first
    if progress:
        callbacks.append(TQDMProgressBar())
    return pl.Trainer(
        accelerator="auto",
        devices=world.local_size,
        num_nodes=world.size // world.local_size,
        strategy="ddp" if world.size > 1 else "auto",
        precision=_PRECISIONS[config.precision],
        plugins=[AtomicCheckpointIO()],
        deterministic=config.deterministic,
        accumulate_grad_batches=config.accumulate,
        max_epochs=config.recipe.epochs,
        callbacks=callbacks,
        logger=False,
        num_sanity_val_steps=0,
        enable_progress_bar=progress,
        enable_model_summary=False,
        default_root_dir=output,
        use_distributed_sampler=False,
    )


@contextmanager
def _stopped_from_outside(trainer: pl.Trainer) -> Iterator[None]:
    """Name what stops a run from outside: SIGTERM or Ctrl-C, both of which Lightning swallows.

    Raises:
        StoppedError: it was SIGTERM.
    """
    try:
        yield
    except (TrainingError, SystemExit) as end:
        # Whoever stops a whole group of processes stops those that decode images as well.
        if isinstance(end, SIGTERMException) or _received_sigterm(trainer):
            if trainer.world_size > 1:
                # torchrun sends it again when another process ends before this one has spoken.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if not trainer.is_global_zero:  # the first process speaks
                sys.exit(StoppedError.exit_code)
            state = describe_state(Path(trainer.default_root_dir), trainer.current_epoch)
            raise StoppedError(
                f"SIGTERM has ended the run. {state}",
                "To go on, run the same command again, 'train' with --resume.",
            ) from end
        if isinstance(end.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from end
        raise


def _received_sigterm(trainer: pl.Trainer) -> bool:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    own = [callback for callback in callbacks if isinstance(callback, StopTogether)]
    return trainer.received_sigterm or any(callback.received for callback in own)


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
