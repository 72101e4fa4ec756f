"""One training run, from data to checkpoint."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from delugeserve.data.balance import class_weights
from delugeserve.data.catalogue import Catalogue
from delugeserve.data.encoded import EncodedImages
from delugeserve.data.streaming import explain_lost_workers
from delugeserve.errors import UsageError
from delugeserve.evaluation.evaluate import Evaluation, evaluate_batches
from delugeserve.networks import native_library
from delugeserve.networks.build import Network, build_network
from delugeserve.networks.checkpoint import Checkpoint, save_checkpoint
from delugeserve.networks.classifier import network_classifier, normalise
from delugeserve.networks.delugenet import DelugeNet
from delugeserve.networks.fused import best_kernels, require_compiler
from delugeserve.networks.whitening import whiten
from delugeserve.system.memory import explain_out_of_memory, keep_freed_memory
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve.training import batches
from delugeserve.training.augment import Augment, Mix
from delugeserve.training.batches import Images, Reading
from delugeserve.training.best import choose_network
from delugeserve.training.config import Measured, RunConfig, check_sums
from delugeserve.training.distillation import load_teacher
from delugeserve.training.distributed import (
    World,
    connected,
    current_world,
    first_alone,
    synchronise_norms,
)
from delugeserve.training.environment import describe_environment
from delugeserve.training.folder import (
    check_folder,
    finish_folder,
    finishing,
    run_lock,
    start_folder,
)
from delugeserve.training.freezing import freeze_all_but_classifier
from delugeserve.training.initial import InitialCheckpoint, read_initial
from delugeserve.training.loggers import check_logger
from delugeserve.training.module import TrainingModule
from delugeserve.training.records import extend, read_run
from delugeserve.training.saving import BEST_FILE, STATE_FILE, saving
from delugeserve.training.splits import RunImages, check_unchanged, read_images, record_images
from delugeserve.training.stopping import stoppable
from delugeserve.training.trainer import build_trainer, quiet_lightning
from delugeserve.zoo import ModelSpec

_log = logging.getLogger(__name__)

_WHITENED = 5_000  # images
_LESS_MEMORY = "Start again with --accumulate 2, --checkpoint-sums or a smaller --batch-size."


@dataclasses.dataclass(frozen=True)
class _Inputs:
    """What a run reads before its first step."""

    images: RunImages
    initial: InitialCheckpoint | None
    weights: Mapping[str, Tensor] | None

    def knows_all_classes(self, spec: ModelSpec) -> bool:
        """Whether the run starts now, from a network that classifies its task already."""
        if self.initial is None or self.weights is None:
            return False
        return tuple(self.initial.kept_classes) == spec.task.class_names


@dataclasses.dataclass(frozen=True)
class FinalEvaluation(Evaluation):
    """The errors of a trained network.

    Attributes:
        split: the split that they were measured on.
        epoch: the epoch whose weights the network has, from 1; 0 for those of the initial
            checkpoint, where no epoch was better.
    """

    split: Measured
    epoch: int


@keep_freed_memory()
def train(
    spec: ModelSpec,
    config: RunConfig,
    output: Path,
    *,
    catalogue: Catalogue | None = None,
    reading: Reading | None = None,
    resume: bool = False,
    progress: Progress = NO_PROGRESS,
) -> tuple[Path, FinalEvaluation] | None:
    """Train a network and write its checkpoint, alone or as one of the processes of ``torchrun``.

    After every epoch the network is measured on the validation split, at the end on the test split,
    in fp32. See :class:`~delugeserve.training.splits.RunImages` for data that lacks one of them.

    Args:
        spec: the network.
        config: everything that decides the result.
        output: the run's folder: settings, environment, log, the state to resume from, and in the
            end ``<name>.safetensors``, its errors and the learning curves. With a validation split
            that checkpoint has the weights of the epoch with the lowest validation error.
        catalogue: the data, if it has been opened.
        reading: how images are read; None for the defaults.
        resume: continue the run in ``output`` from its last complete epoch. With more epochs in
            ``config`` than before, the schedule is that of the new number from there on.
        progress: receives epochs and batches.

    Returns:
        The checkpoint's path and the network's errors on the test split, or on the validation split
        of data without one; None in all processes but the first, which alone writes.

    Raises:
        UsageError: ``output`` holds a run already, or none to resume, or one that is in progress;
            or the batch cannot be divided among the processes.
        ResumeError: the run was started with other settings.
        DatasetError: the images cannot be read.
        CheckpointError: the state to resume from is damaged or another run's, or the initial
            checkpoint is missing, damaged, changed or another model's.
        TrainingError: the loss is not finite, the disk is full, or another process ended, one that
            trains or one that decodes.
        StoppedError: SIGTERM or Ctrl-C ended the run.
        Failure: the fused kernels cannot be compiled.
    """
    world = current_world()
    reading = reading or Reading()
    progress = progress if world.is_first else NO_PROGRESS
    environment = describe_environment(config.precision) | {"processes": str(world.size)}
    _check_gpus(world)
    gpu = torch.cuda.is_available()
    check_sums(spec, config)
    check_logger(config.logger)
    if config.compile or config.fuse_sums:
        require_compiler()
    if config.fuse_sums and best_kernels() == "native":
        native_library.library()  # so that a compiler that fails leaves no run folder

    with stoppable(output, world) as stop, ExitStack() as lock:

        def prepare() -> _Inputs:
            batches.share_of(config.recipe.batch_size, world, config.accumulate)
            if world.is_first:
                lock.enter_context(run_lock(output))
                check_folder(output, config, resume=resume)
            initial, weights = None, None
            if config.initial_checkpoint is not None:
                reference = config.initial_checkpoint
                initial, weights = read_initial(
                    reference, spec, output, seed=config.seed, resume=resume
                )
            images = read_images(
                config, spec.task, catalogue=catalogue, reading=reading, progress=progress
            )
            if config.recipe.patience and images.watched_split != "validation":
                raise UsageError(
                    "--patience needs a validation split: on the test images it would choose what "
                    "they measure.",
                    "Add --val-fraction 0.1, or leave out --patience.",
                )
            if resume:
                check_unchanged(images, output)
            return _Inputs(images, initial, weights)

        with connected(world):
            inputs = first_alone(world, prepare)
            device = torch.device("cuda", world.local_rank) if gpu else torch.device("cpu")
            loaders = (
                batches.training_batches(
                    inputs.images.train, spec.task, config, world, reading, device
                ),
                batches.test_batches(inputs.images.watched, spec.task, world, reading, device),
            )
            if world.is_first:
                if resume:
                    config = extend(read_run(output), config)
                environment = start_folder(
                    output, config, environment, inputs.initial, resume=resume
                )
                _warn_of_large_batch(len(inputs.images.train), config.recipe.batch_size)
                with saving(output, 0):
                    record_images(inputs.images, output)
            module = _module(spec, config, inputs, world)

            def write_best(network: nn.Module, epoch: int, error: float) -> None:
                best = _checkpoint(spec, config, inputs, network, environment, epoch)
                best = dataclasses.replace(best, metrics={"validation_error": error})
                with saving(output, epoch):
                    save_checkpoint(best, output / BEST_FILE)

            start = None
            if world.is_first and inputs.knows_all_classes(spec):
                progress.stage("test the initial network")
                first = _evaluate(module.network.to(device), spec, inputs.images.watched, reading)
                _log.info("before training: %s error %.2f %%", config.watched, first.top1_error)
                if inputs.images.watched_split == "validation":
                    start = first.top1_error
                    write_best(module.network, 0, start)
                module.network.train()

            saved = output / STATE_FILE
            state = saved if resume and saved.is_file() else None
            with (
                quiet_lightning(),
                explain_lost_workers(),
                explain_out_of_memory(_LESS_MEMORY),
            ):
                trainer = build_trainer(
                    config,
                    output,
                    world,
                    progress,
                    stop,
                    watched=inputs.images.watched_split,
                    write_best=write_best,
                    start=start,
                )
                trainer.fit(module, *loaders, ckpt_path=state, weights_only=True)
        if not world.is_first:
            return None

        # Lightning has left it on the CPU.
        network = module.network.to(trainer.strategy.root_device)
        epoch = choose_network(trainer, network, output)
        progress.stage("test the trained network")
        with explain_lost_workers():
            measured = _evaluate(network, spec, inputs.images.final, reading)
        evaluation = FinalEvaluation(
            **dataclasses.asdict(measured), split=inputs.images.final_split, epoch=epoch
        )
        checkpoint = _checkpoint(spec, config, inputs, network, environment, epoch)
        checkpoint = dataclasses.replace(checkpoint, metrics=dataclasses.asdict(evaluation))
        path = output / f"{spec.name}.safetensors"
        with finishing(output):
            save_checkpoint(checkpoint, path)
            finish_folder(output, dataclasses.asdict(evaluation))
        (output / BEST_FILE).unlink(missing_ok=True)
        return path, evaluation


def _warn_of_large_batch(count: int, batch_size: int) -> None:
    if count < batch_size:
        _log.warning(
            "A batch of %d images takes all %d training images: each epoch is a single step. "
            "Use a smaller --batch-size.",
            batch_size,
            count,
        )


def _check_gpus(world: World) -> None:
    gpus = torch.cuda.device_count()
    if 0 < gpus < world.local_size:
        raise UsageError(
            f"torchrun started {world.local_size} processes, but this machine has {gpus} GPUs.",
            f"Start one process per GPU: torchrun --nproc-per-node {gpus} -m delugeserve train ...",
        )


def _module(spec: ModelSpec, config: RunConfig, inputs: _Inputs, world: World) -> TrainingModule:
    train = inputs.images.train
    count = None if isinstance(train, EncodedImages) else len(train)
    augment = Augment(spec.task, config.recipe, config.seed, world, count)
    mix = Mix(config.recipe, spec.task.num_classes, config.seed)
    network = build_network(spec, seed=config.seed)
    if inputs.weights is not None:
        network.load_state_dict(dict(inputs.weights))
    elif config.recipe.whiten and not isinstance(train, EncodedImages):
        chosen = torch.from_numpy(train.images[:: max(1, len(train) // _WHITENED)])
        mean, std = torch.tensor(spec.task.mean), torch.tensor(spec.task.std)
        whiten(network.stem.conv, normalise(chosen, mean, std))
    if config.freeze:
        freeze_all_but_classifier(network)
    weights = None
    if config.recipe.class_weights == "balanced":
        weights = torch.from_numpy(class_weights(train.labels, spec.task.num_classes))
    teacher = None
    if config.teacher is not None:
        teacher = load_teacher(Path(config.teacher), spec.task)
    module = TrainingModule(network, spec.task, config.recipe, augment, mix, weights, teacher)
    if config.sync_batchnorm and world.size > 1:
        synchronise_norms(module)
    if config.compile:
        module.network.compile()
    if config.fuse_sums:
        _fuse(network)
        if teacher is not None:
            _fuse(teacher.network)
    if isinstance(network, DelugeNet):
        if config.checkpoint_sums:
            network.checkpoint_sums()
        if config.fixed_sums:
            network.fix_sums()
    return module


def _fuse(network: Network) -> None:
    """Give a network the best kernels for its sums and BatchNorms."""
    if isinstance(network, DelugeNet):
        network.fuse_sums(best_kernels())
    elif best_kernels() == "native":
        network.fuse_norms()


def _evaluate(network: nn.Module, spec: ModelSpec, final: Images, reading: Reading) -> Evaluation:
    """Test the network on all images, in this process alone."""
    loader = batches.test_batches(final, spec.task, World(), reading)
    return evaluate_batches(
        network_classifier(network, spec.task),
        ((images.numpy(), labels.numpy()) for images, labels in loader),
        spec.task.num_classes,
    )


def _checkpoint(
    spec: ModelSpec,
    config: RunConfig,
    inputs: _Inputs,
    network: nn.Module,
    environment: Mapping[str, str],
    epoch: int,
) -> Checkpoint:
    """Return a network as it is after an epoch, without its errors."""
    recipe: dict[str, Any] = dataclasses.asdict(config.recipe) | {"seed": config.seed}
    if inputs.images.watched_split == "validation":
        recipe["epoch"] = epoch
    if config.extended:
        recipe["extended"] = config.extended
    if inputs.initial is not None:
        recipe["initial"] = inputs.initial.history
    images, splits = inputs.images, inputs.images.describe()
    return Checkpoint(
        spec.with_classes(images.train.class_names),
        network.state_dict(),
        recipe=recipe,
        data={
            "source": Path(config.data).name,
            "train_images": len(images.train),
            "val_fraction": config.val_fraction,
            **{f"{split}_fingerprint": one["fingerprint"] for split, one in splits.items()},
        },
        # The command names paths of this machine, and the checkpoint is handed on.
        environment={name: text for name, text in environment.items() if name != "command"},
    )
