"""A plain training loop on one GPU, with everything on the device: for searches and long runs.

It trains with the optimiser, schedule, whitening and compiled layers of `delugeserve train`; data,
augmentation and teacher stay on the GPU, and a run may end by the clock instead of by epochs.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gpu_job import Job
from torch import Tensor, nn

from delugeserve.data.datasets import load_images
from delugeserve.networks.build import build_network
from delugeserve.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from delugeserve.networks.classifier import normalise
from delugeserve.networks.flops import count
from delugeserve.networks.whitening import whiten
from delugeserve.training.module import learning_rate
from delugeserve.training.optimisers import build_optimiser
from delugeserve.training.recipes import find_recipe
from delugeserve.zoo import CIFAR10, ModelSpec, find_model

HELD_OUT = 5_000
PFLOP = 0.29  # airbench94's training cost
FORWARD_AND_BACKWARD = 3
TEMPERATURE = 2.0

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
SGD = {"muon_rate": 0.0, "learning_rate": 0.8, "warmup": 0.2}


def augment(images: Tensor, recipe: dict[str, Any], epoch: int, mirror: Tensor, g: Any) -> Tensor:
    n, device = len(images), images.device
    if recipe["flip"] == "alternating":
        flip = mirror ^ bool(epoch % 2)
    else:
        flip = torch.rand(n, device=device, generator=g) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    pad = recipe["crop_padding"]
    if pad:
        h = images.shape[-1]
        padded = F.pad(images, (pad,) * 4, mode=recipe.get("pad_mode", "constant"))
        offsets = torch.randint(0, 2 * pad + 1, (2, n, 1), device=device, generator=g)
        ar = torch.arange(h, device=device)
        rows, cols = offsets[0] + ar, offsets[1] + ar
        index = torch.arange(n, device=device)[:, None, None]
        # An index between slices puts the channels last.
        images = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], cols[:, None, :]]
        images = images.permute(0, 3, 1, 2)
    side = recipe.get("cutout", 0)
    if side:
        h = images.shape[-1]
        c = torch.randint(0, h, (2, n, 1), device=device, generator=g)
        ar = torch.arange(h, device=device)
        inside = [(ar >= x - side // 2) & (ar < x + (side + 1) // 2) for x in c]
        images = images.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0.0)
    return images


def cost(spec: ModelSpec, recipe: dict[str, Any]) -> float:
    """FLOPs of one epoch of all 50,000 images, relative to their size."""
    small = recipe.get("small_images", 0.0)
    return FORWARD_AND_BACKWARD * count(spec).flops * 50_000 * (1 - small + small * (3 / 4) ** 2)


def run(job: dict[str, Any], data: dict[str, Any], device: str) -> dict[str, Any]:
    """Train one network.

    A job has `name` and `seed`, and may have `model`, `size` (widths, layers), `recipe` (values
    that differ from BASE), `epochs` or `pflop` or `seconds` (which ends the run), `compiled`,
    `teacher` (a checkpoint), `save` (folder of checkpoint and log) and `log_every` (epochs).
    """
    started = time.perf_counter()
    values = BASE | job.get("recipe", {})
    spec = find_model(job.get("model", "delugenet38"))
    if "size" in job:
        widths, layers = job["size"]
        shape = dataclasses.replace(spec.architecture, widths=tuple(widths), layers=tuple(layers))
        spec = dataclasses.replace(spec, architecture=shape)
    epochs = job.get("epochs") or max(1, round(job.get("pflop", PFLOP) * 1e15 / cost(spec, values)))
    limit = job.get("seconds")
    fields = {f.name for f in dataclasses.fields(find_recipe("cifar-quick"))}
    recipe = dataclasses.replace(
        find_recipe("cifar-quick"),
        epochs=epochs,
        **{k: v for k, v in values.items() if k in fields},
    )
    torch.manual_seed(job["seed"])
    g = torch.Generator(device).manual_seed(job["seed"])
    network: Any = build_network(spec, seed=job["seed"]).to(device)
    network = network.to(memory_format=torch.channels_last)
    images, labels = data["train"], data["labels"]
    if values["whiten"]:
        whiten(network.stem.conv, images[:5000])
    if job.get("compiled"):
        network.compile_layers()
        network.fuse_sums()
    if "bn" in values:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = values["bn"]
    teacher = None
    if job.get("teacher"):
        teacher = load_checkpoint(Path(job["teacher"])).build().to(device)
        teacher = teacher.to(memory_format=torch.channels_last)
    optimiser = build_optimiser(network, recipe)
    size = recipe.batch_size
    per_epoch = len(images) // size
    steps = per_epoch * epochs
    highest = [group["lr"] for group in optimiser.param_groups]
    if device == "cuda":
        for group in optimiser.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]), device=device)
    trainer = Step(network, optimiser, recipe, teacher, device, graphed=job.get("graphed", False))
    schedule = learning_rate(recipe, 10_000 if limit else steps)
    mirror = torch.rand(len(images), device=device, generator=g) < 0.5
    averaged: Any = None
    if recipe.ema_decay:
        averaged = torch.optim.swa_utils.AveragedModel(
            network,
            multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.ema_decay),
            use_buffers=True,
        )
    losses: list[Tensor] = []
    rows: list[dict[str, Any]] = []
    scale = 1.0
    step, epoch, done, clock = 0, 0, 0.0, None

    def errors(*, flip: bool = True) -> list[float]:
        tested = averaged.module if averaged is not None else network
        tested.eval()
        tests = data["test"].split(1000)
        with torch.inference_mode():
            plain = torch.cat([tested.forward(x) for x in tests])
            flipped = torch.cat([tested.forward(x.flip(3)) for x in tests]) if flip else plain
        return [
            100 * (z.argmax(1) != data["test_labels"]).float().mean().item()
            for z in (plain, plain + flipped)
        ]

    while done < 1:
        network.train()
        order = torch.randperm(len(images), device=device, generator=g)
        small = done < values.get("small_images", 0.0)
        for batch in order[: per_epoch * size].view(per_epoch, size):
            x = augment(images[batch], values, epoch, mirror[batch], g)
            y = labels[batch]
            target: Any = y
            if values.get("mixup"):
                lam = float(np.random.default_rng((job["seed"], step)).beta(*[values["mixup"]] * 2))
                perm = torch.randperm(size, device=device, generator=g)
                x = lam * x + (1 - lam) * x[perm]
                hot = F.one_hot(y, 10).float()
                target = lam * hot + (1 - lam) * hot[perm]
            if small:
                x = F.interpolate(x, scale_factor=0.75, mode="bilinear", antialias=False)
            x = x.contiguous(memory_format=torch.channels_last)
            scale = schedule(min(9_999, int(10_000 * done)) if limit else step)
            for group, top in zip(optimiser.param_groups, highest, strict=True):
                if device == "cuda":
                    group["lr"].fill_(top * scale)
                else:
                    group["lr"] = top * scale
            loss = trainer(x, target)
            step += 1
            if step == Step.WARM_UP + 1:  # compiled by now
                torch.cuda.synchronize() if device == "cuda" else None
                clock = time.perf_counter()
                limit = limit and limit - (clock - started)
            if limit:
                if step % 8 == 0 and device == "cuda":
                    torch.cuda.synchronize()  # the host must not run ahead of the clock
                done = (time.perf_counter() - clock) / limit if clock else 0.0
                if done >= 1:
                    break
            else:
                done = step / steps
            if averaged is not None:
                averaged.update_parameters(network)
            if step % 50 == 0:
                losses.append(loss.detach())
        epoch += 1
        every = job.get("log_every", 0)
        if every and (epoch % every == 0 or done >= 1):
            found = errors(flip=False)
            row = {
                "epoch": epoch,
                "train_loss": round(float(loss.detach()), 4),
                "test_error": round(found[0], 2),
                "learning_rate": round(recipe.muon_rate * scale, 5),
                "seconds": round(time.perf_counter() - started, 1),
            }
            rows.append(row)
            print(job["name"], row, flush=True)
    wrong = errors()
    if job.get("save"):
        folder = Path(job["save"])
        folder.mkdir(parents=True, exist_ok=True)
        save(
            folder, spec, recipe, values | {"seed": job["seed"]}, network, wrong, data, rows, epoch
        )
    return {
        "name": job["name"],
        "seed": job["seed"],
        "model": spec.name,
        "size": job.get("size"),
        "recipe": values,
        "epochs": epoch,
        "steps": step,
        "compile_seconds": round((clock or started) - started, 1),
        "pflop": round(cost(spec, values) * epoch / 1e15, 4),
        "error": round(wrong[0], 2),
        "error_flip": round(wrong[1], 2),
        "train_loss": round(float(torch.stack(losses[-5:]).mean()), 4) if losses else None,
        "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip


class Step:
    """One training step: forward, backward and optimiser, replayed from a CUDA graph.

    A graph takes the host out of it: a small network would otherwise wait for kernel launches.
    """

    WARM_UP = 3

    def __init__(
        self, network: Any, optimiser: Any, recipe: Any, teacher: Any, device: str, *, graphed: bool
    ) -> None:
        self.network, self.optimiser, self.recipe = network, optimiser, recipe
        self.teacher, self.device = teacher, device
        self.graphed = graphed and device == "cuda"
        self.steps = 0
        self.graph: Any = None
        self.stream: Any = torch.cuda.Stream() if self.graphed else None

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        """Train on a batch, and return its loss."""
        self.steps += 1
        if not self.graphed:
            return self._run(x, target)
        if self.steps <= self.WARM_UP:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                loss = self._run(x, target)
            torch.cuda.current_stream().wait_stream(self.stream)
            return loss
        if self.graph is None:
            try:
                self.x, self.target = x.clone(), target.clone()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    self.loss = self._run(self.x, self.target)
                self.graph = graph
            except Exception as error:  # the eager step is right, only slower
                print(f"No CUDA graph: {type(error).__name__}: {error}"[:600], flush=True)
                self.graphed = False
                torch.cuda.synchronize()
                return self._run(x, target)
        self.x.copy_(x)
        self.target.copy_(target)
        self.graph.replay()
        loss_: Tensor = self.loss
        return loss_

    def _run(self, x: Tensor, target: Tensor) -> Tensor:
        recipe = self.recipe
        self.optimiser.zero_grad(set_to_none=True)
        # Each weight is cast once in any case, and a cache may not outlive a graph's capture.
        with torch.autocast(self.device, dtype=torch.bfloat16, cache_enabled=False):
            logits = self.network(x).float()
        loss = F.cross_entropy(logits, target, label_smoothing=recipe.label_smoothing)
        if self.teacher is not None and recipe.distillation:
            with (
                torch.no_grad(),
                torch.autocast(self.device, dtype=torch.bfloat16, cache_enabled=False),
            ):
                soft = (self.teacher(x).float() / TEMPERATURE).softmax(1)
            student = (logits / TEMPERATURE).log_softmax(1)
            taught = TEMPERATURE**2 * F.kl_div(student, soft, reduction="batchmean")
            loss = (1 - recipe.distillation) * loss + recipe.distillation * taught
        loss.backward()
        self.optimiser.step()
        return loss.detach()


def save(
    folder: Path,
    spec: ModelSpec,
    recipe: Any,
    values: dict[str, Any],
    network: Any,
    wrong: list[float],
    data: dict[str, Any],
    rows: list[dict[str, Any]],
    epochs: int,
) -> None:
    """Write the checkpoint and the log of a run."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    checkpoint = Checkpoint(
        spec,
        recipe=dataclasses.asdict(recipe) | values | {"name": "gpu_run", "epochs": epochs},
        data=data["facts"],
        metrics={"top1_error": wrong[0], "top1_error_flip": wrong[1]},
        environment={"torch": torch.__version__, "machine": gpu},
        state=network.state_dict(),
    )
    # A file of more than 15 MB would not come back whole.
    half = count(spec).params > 3_000_000
    save_checkpoint(checkpoint, folder / f"{spec.name}.safetensors", half=half)
    with (folder / f"{spec.name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["epoch"])
        writer.writeheader()
        writer.writerows(rows)


def load(device: str, limit: int | None = None, *, whole: bool = False) -> dict[str, Any]:
    """Load CIFAR-10: without `whole`, 5,000 training images are held out as test images."""
    found = load_images(os.environ["DELUGESERVE_DATA"], "train", CIFAR10)
    held = np.zeros(len(found), bool)
    held[np.random.default_rng(0).permutation(len(found))[:HELD_OUT]] = True
    mean, std = (torch.tensor(v, device=device) for v in (CIFAR10.mean, CIFAR10.std))

    def normal(chosen: Any) -> Tensor:
        images = torch.from_numpy(found.images[chosen]).to(device)
        return torch.cat([normalise(x, mean, std) for x in images.split(5000)])

    labels = torch.from_numpy(found.labels).to(device)
    mask = torch.from_numpy(held).to(device)
    cut = slice(limit)
    facts = {
        "source": "cifar10",
        "train_images": len(found),
        "train_fingerprint": found.fingerprint,
    }
    if whole:
        tests = load_images(os.environ["DELUGESERVE_DATA"], "test", CIFAR10)
        test = torch.from_numpy(tests.images).to(device)
        return {
            "train": normal(slice(None))[cut], "labels": labels[cut],
            "test": torch.cat([normalise(x, mean, std) for x in test.split(5000)])[cut],
            "test_labels": torch.from_numpy(tests.labels).to(device)[cut],
            "facts": facts | {"test_fingerprint": tests.fingerprint},
        }  # fmt: skip
    facts["train_images"] = len(found) - HELD_OUT
    return {
        "facts": facts,
        "train": normal(~held)[cut], "labels": labels[~mask][cut],
        "test": normal(held)[cut], "test_labels": labels[mask][cut],
    }  # fmt: skip


# Of the three networks that a GPU run trains; GPU_TRAINING may hold other values, as JSON.
LONG: dict[str, dict[str, Any]] = {
    "delugenet146": {"label_smoothing": 0.1, "cutout": 8, "crop_padding": 4},
    "wide_delugenet38": {"label_smoothing": 0.1, "cutout": 8, "crop_padding": 4},
    "delugenet38": {"label_smoothing": 0.1, "crop_padding": 4, "distillation": 0.5},
}


SHARES = {"wide_delugenet38": 0.31, "delugenet38": 0.25, "delugenet146": 0.44}


def train_networks(job: Job) -> None:
    """Train Wide-DelugeNet-38, DelugeNet-38 taught by it, and DelugeNet-146, by the clock."""
    values = {name: dict(recipe) for name, recipe in LONG.items()}
    for name, other in json.loads(os.environ.get("GPU_TRAINING", "{}")).items():
        values[name] |= other
    for name, share in SHARES.items():
        seconds = share * (job.seconds - 10)
        end = time.monotonic() + seconds
        one: dict[str, Any] = {
            "name": name,
            "model": name,
            "seed": 0,
            "recipe": values[name],
            "compiled": True,
            "graphed": True,
            "save": str(job.folder),
            "log_every": 5 if "146" in name else 10,
        }
        if values[name].get("distillation"):
            trained = job.folder / "wide_delugenet38.safetensors"
            shipped = find_model("wide_delugenet38").weights
            one["teacher"] = str(trained if trained.is_file() else shipped)
        if job.smoke:
            one |= {"size": [[4, 8, 16], [1, 1, 1]], "recipe": values[name] | {"batch_size": 50}}
        # A process for each: after an error within a graph, CUDA may be unusable.
        for simpler in ({}, {"graphed": False}, {"graphed": False, "compiled": False}):
            left = min(end - time.monotonic(), job.left() - 3)
            if left < 15:
                break
            result = _train_apart(one | simpler | {"seconds": left - 6}, job)
            job.add(result, json.dumps({k: v for k, v in result.items() if k != "recipe"}))
            if "failed" not in result:
                break


def _train_apart(one: dict[str, Any], job: Job) -> dict[str, Any]:
    context: Any = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_train, args=(one, job.device, job.smoke, queue))
    process.start()
    process.join(one["seconds"] + 40)
    if process.is_alive():
        process.kill()
        process.join()
    if queue.empty():
        return {"name": one["name"], "failed": f"exit status {process.exitcode}"}
    result: dict[str, Any] = queue.get()
    return result


def _train(one: dict[str, Any], device: str, smoke: bool, queue: Any) -> None:
    torch.backends.cudnn.benchmark = True
    data = load(device, 200 if smoke else None, whole=True)
    try:
        queue.put(run(one, data, device))
    except Exception as error:  # the next network can still be trained
        queue.put({"name": one["name"], "failed": f"{type(error).__name__}: {error}"[:600]})
