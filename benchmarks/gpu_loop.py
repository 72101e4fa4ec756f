"""A plain training loop with everything on the device, of CIFAR-10: for searches and timed runs.

It trains with the optimiser, schedule, whitening and compiled layers of `delugeserve train`. Data,
augmentation and teacher stay on the GPU, and a run may end by the clock instead of by epochs.
"""

from __future__ import annotations

import csv
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gpu_data import Data, augment
from gpu_job import synchronise
from gpu_step import Step
from torch import Tensor

from delugeserve.networks.build import build_network
from delugeserve.networks.checkpoint import Checkpoint, save_checkpoint
from delugeserve.networks.flops import count
from delugeserve.networks.whitening import whiten
from delugeserve.training.distillation import Teacher, load_teacher
from delugeserve.training.module import learning_rate
from delugeserve.training.optimisers import build_optimiser
from delugeserve.training.recipes import Recipe, find_recipe
from delugeserve.zoo import CIFAR10, ModelSpec, find_model

PFLOP = 0.29  # airbench94's training cost
FORWARD_AND_BACKWARD = 3
SMALL = 3 / 4  # side of a small image over that of a whole one
TICKS = 10_000  # steps of the schedule of a run that ends by the clock
LARGE = 3_000_000  # parameters whose file in fp32, of over 12 MB, would not come back whole

BASE: dict[str, Any] = {
    "batch_size": 500,
    "learning_rate": 0.2,
    "muon_rate": 0.08,
    "muon_momentum": 0.9,
    "bias_rate": 1.0,
    "weight_decay": 5e-4,
    "momentum": 0.9,
    "label_smoothing": 0.1,
    "crop_padding": 2,
    "whiten": True,
    "warmup": 0.0,
    "ema_decay": 0.0,
    "flip": "alternating",
}


@dataclass(frozen=True)
class Training:
    """A network to train, and how.

    Attributes:
        name: name of the training.
        seed: of the weights, the order of the images and the augmentation.
        model: name of the registered model.
        size: its widths and layers, if they are others.
        recipe: values that differ from BASE.
        epochs: number of epochs; None for as many as cost ``pflop``.
        pflop: training cost in units of 10^15 FLOPs.
        seconds: when the training ends, compilation included; None to end after the epochs.
        compiled: whether layers and sums are compiled.
        graphed: whether steps are replayed from a CUDA graph.
        teacher: path of the teacher's checkpoint.
        save: folder of checkpoint and log; None to save nothing.
        log_every: number of epochs between two tests; 0 for none.
    """

    name: str
    seed: int
    model: str = "delugenet38"
    size: tuple[Sequence[int], Sequence[int]] | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    pflop: float = PFLOP
    seconds: float | None = None
    compiled: bool = False
    graphed: bool = False
    teacher: str | None = None
    save: str | None = None
    log_every: int = 0

    @property
    def values(self) -> dict[str, Any]:
        """Values of the recipe."""
        return BASE | dict(self.recipe)

    def spec(self) -> ModelSpec:
        """Return the network."""
        spec = find_model(self.model)
        if self.size is None:
            return spec
        widths, layers = map(tuple, self.size)
        shape = dataclasses.replace(spec.architecture, widths=widths, layers=layers)
        return dataclasses.replace(spec, architecture=shape)

    def full_recipe(self) -> Recipe:
        """Return the recipe, with the number of epochs."""
        values = self.values
        epoch = cost(self.spec(), values.get("small_images", 0.0))
        epochs = self.epochs or max(1, round(self.pflop * 1e15 / epoch))
        return dataclasses.replace(find_recipe("cifar-quick"), epochs=epochs, **values)


def cost(spec: ModelSpec, small: float) -> float:
    """Return the FLOPs of an epoch of 50,000 images, of which a fraction is small."""
    return FORWARD_AND_BACKWARD * count(spec).flops * 50_000 * (1 - small + small * SMALL**2)


def run(training: Training, data: Data, device: str) -> dict[str, Any]:
    """Train one network, and return its errors and times."""
    trainer = _Trainer(training, data, device)
    while trainer.clock.done < 1:
        trainer.epoch()
        every = training.log_every
        if every and (trainer.epochs % every == 0 or trainer.clock.done >= 1):
            trainer.log()
    errors = trainer.errors()
    if training.save is not None:
        folder = Path(training.save)
        folder.mkdir(parents=True, exist_ok=True)
        trainer.save(folder, errors)
    return trainer.result(errors)


class Clock:
    """How much of a training is done, by steps or by time.

    Args:
        steps: number of steps of the whole training.
        seconds: when it ends; None to end after the steps.
        device: ``cuda`` or ``cpu``.

    Attributes:
        done: the fraction that is done, of the time after compilation or of the steps.
        step: number of steps so far.
        compile_seconds: time until the first steps were made, in which layers are compiled.
    """

    def __init__(self, steps: int, seconds: float | None, device: str) -> None:
        self.started = time.perf_counter()
        self.done, self.step, self.compile_seconds = 0.0, 0, 0.0
        self._steps, self._limit, self._device = steps, seconds, device
        self._compiled: float | None = None

    def schedule_step(self) -> int:
        """Return the step of the schedule, which has ``TICKS`` steps if time is limited."""
        return self.step if self._limit is None else min(TICKS - 1, int(TICKS * self.done))

    def tick(self) -> bool:
        """Count a step, and return whether the time is up."""
        self.step += 1
        if self.step == Step.WARM_UP + 1:
            synchronise(self._device)
            self._compiled = time.perf_counter()
            self.compile_seconds = self._compiled - self.started
        if self._limit is None:
            self.done = self.step / self._steps
            return False
        if self.step % 8 == 0:
            synchronise(self._device)  # the host must not run ahead of the clock
        if self._compiled is not None:
            left = max(1e-9, self._limit - self.compile_seconds)
            self.done = (time.perf_counter() - self._compiled) / left
        return self.done >= 1

    def seconds(self) -> float:
        """Return the time since the start."""
        return time.perf_counter() - self.started


class _Trainer:
    """A training: the network, its optimiser, its data, and what was measured."""

    def __init__(self, training: Training, data: Data, device: str) -> None:
        self.training, self.data, self.device = training, data, device
        self.spec, self.recipe = training.spec(), training.full_recipe()
        self.batches = len(data.train) // self.recipe.batch_size  # of an epoch
        steps = self.batches * self.recipe.epochs
        self.clock = Clock(steps, training.seconds, device)
        torch.manual_seed(training.seed)
        self.generator = torch.Generator(device).manual_seed(training.seed)
        self.network = self._build()
        self.optimiser = build_optimiser(self.network, self.recipe)
        self.rates = [group["lr"] for group in self.optimiser.param_groups]
        if device == "cuda":  # a CUDA graph reads them from the GPU's memory
            for group in self.optimiser.param_groups:
                group["lr"] = torch.tensor(float(group["lr"]), device=device)
        self.schedule = learning_rate(self.recipe, TICKS if training.seconds else steps)
        self.step = Step(
            self.network, self.optimiser, self.recipe, self._teacher(), device, training.graphed
        )
        numbers = torch.rand(len(data.train), device=device, generator=self.generator)
        self.mirror = numbers < 0.5
        self.averaged = self._average()
        self.epochs, self.scale = 0, 1.0
        self.losses: list[Tensor] = []
        self.rows: list[dict[str, Any]] = []

    def _build(self) -> Any:
        network: Any = build_network(self.spec, seed=self.training.seed).to(self.device)
        network = network.to(memory_format=torch.channels_last)
        if self.recipe.whiten:
            whiten(network.stem.conv, self.data.train[:5000])
        if self.training.compiled:
            network.compile_layers()
            network.fuse_sums()
        return network

    def _teacher(self) -> Teacher | None:
        if self.training.teacher is None:
            return None
        return load_teacher(Path(self.training.teacher), CIFAR10).to(self.device)

    def _average(self) -> Any:
        if not self.recipe.ema_decay:
            return None
        return torch.optim.swa_utils.AveragedModel(
            self.network,
            multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(self.recipe.ema_decay),
            use_buffers=True,
        )

    def epoch(self) -> None:
        """Train on all images once, or until the time is up."""
        self.network.train()
        count, size = len(self.data.train), self.recipe.batch_size
        order = torch.randperm(count, device=self.device, generator=self.generator)
        small = self.clock.done < self.recipe.small_images
        for batch in order[: self.batches * size].view(self.batches, size):
            images, target = self._batch(batch, small=small)
            self._set_rates()
            loss = self.step(images, target)
            if self.clock.tick():
                break
            if self.averaged is not None:
                self.averaged.update_parameters(self.network)
            if self.clock.step % 50 == 0:
                self.losses.append(loss.detach())
        self.last_loss = loss.detach()
        self.epochs += 1

    def _batch(self, batch: Tensor, *, small: bool) -> tuple[Tensor, Tensor]:
        """Return augmented images, and their classes or the classes' probabilities."""
        target = self.data.labels[batch]
        images = augment(
            self.data.train[batch], self.recipe, self.epochs, self.mirror[batch], self.generator
        )
        if alpha := self.recipe.mixup:
            random = np.random.default_rng((self.training.seed, self.clock.step))
            share = float(random.beta(alpha, alpha))
            other = torch.randperm(len(batch), device=self.device, generator=self.generator)
            images = share * images + (1 - share) * images[other]
            hot = F.one_hot(target, CIFAR10.num_classes).float()
            target = share * hot + (1 - share) * hot[other]
        if small:
            images = F.interpolate(images, scale_factor=SMALL, mode="bilinear", antialias=False)
        return images.contiguous(memory_format=torch.channels_last), target

    def _set_rates(self) -> None:
        self.scale = self.schedule(self.clock.schedule_step())
        for group, highest in zip(self.optimiser.param_groups, self.rates, strict=True):
            if self.device == "cuda":
                group["lr"].fill_(highest * self.scale)
            else:
                group["lr"] = highest * self.scale

    def errors(self, *, flip: bool = True) -> list[float]:
        """Return the top-1 error in percent, plain and of the mean of both flips."""
        tested = self.averaged.module if self.averaged is not None else self.network
        tested.eval()
        parts = self.data.test.split(1000)
        with torch.inference_mode():
            plain = torch.cat([tested.forward(x) for x in parts])
            flipped = torch.cat([tested.forward(x.flip(3)) for x in parts]) if flip else plain
        return [
            100 * (logits.argmax(1) != self.data.test_labels).float().mean().item()
            for logits in (plain, plain + flipped)
        ]

    def log(self) -> None:
        """Test the network; keep and print the errors."""
        row = {
            "epoch": self.epochs,
            "train_loss": round(float(self.last_loss), 4),
            "test_error": round(self.errors(flip=False)[0], 2),
            "learning_rate": round(self.recipe.muon_rate * self.scale, 5),
            "seconds": round(self.clock.seconds(), 1),
        }
        self.rows.append(row)
        print(self.training.name, row, flush=True)

    def save(self, folder: Path, errors: Sequence[float]) -> None:
        """Write the checkpoint and the log."""
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        ran = {"seed": self.training.seed, "name": "gpu_run", "epochs": self.epochs}
        checkpoint = Checkpoint(
            self.spec,
            recipe=dataclasses.asdict(self.recipe) | ran,
            data=self.data.facts,
            metrics={"top1_error": errors[0], "top1_error_flip": errors[1]},
            environment={"torch": torch.__version__, "machine": gpu},
            state=self.network.state_dict(),
        )
        half = count(self.spec).params > LARGE
        save_checkpoint(checkpoint, folder / f"{self.spec.name}.safetensors", half=half)
        with (folder / f"{self.spec.name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]) if self.rows else ["epoch"])
            writer.writeheader()
            writer.writerows(self.rows)

    def result(self, errors: Sequence[float]) -> dict[str, Any]:
        """Return what is recorded of the training."""
        losses = [float(loss) for loss in self.losses[-5:]]
        pflop = cost(self.spec, self.recipe.small_images) * self.epochs / 1e15
        return {
            "name": self.training.name,
            "seed": self.training.seed,
            "model": self.spec.name,
            "size": self.training.size,
            "recipe": self.training.values,
            "epochs": self.epochs,
            "steps": self.clock.step,
            "compile_seconds": round(self.clock.compile_seconds, 1),
            "pflop": round(pflop, 4),
            "error": round(errors[0], 2),
            "error_flip": round(errors[1], 2),
            "train_loss": round(float(np.mean(losses)), 4) if losses else None,
            "seconds": round(self.clock.seconds(), 1),
        }
