"""The section `training` of `gpu_run.py`: three networks, trained by the clock."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from typing import Any

import torch
from gpu_data import load
from gpu_job import Job
from gpu_loop import Training, run

from delugeserve.zoo import find_model

# Values of the recipes; GPU_TRAINING may hold others, as JSON.
RECIPES: dict[str, dict[str, Any]] = {
    "wide_delugenet38": {"label_smoothing": 0.1, "cutout": 8, "crop_padding": 4},
    "delugenet38": {"label_smoothing": 0.1, "crop_padding": 4, "distillation": 0.5},
    "delugenet146": {"label_smoothing": 0.1, "cutout": 8, "crop_padding": 4},
}
# Fractions of the section's time. The teacher is trained before the network that it teaches.
SHARES = {"wide_delugenet38": 0.31, "delugenet38": 0.25, "delugenet146": 0.44}
TEACHER = "wide_delugenet38"
ENDING = 6  # seconds to test and save a network
SHORTEST = 15  # seconds that a training is worth starting for


def train_networks(job: Job) -> None:
    """Train Wide-DelugeNet-38, DelugeNet-38 taught by it, and DelugeNet-146, by the clock."""
    other = json.loads(os.environ.get("GPU_TRAINING", "{}"))
    for name, share in SHARES.items():
        end = time.monotonic() + share * (job.seconds - 10)
        training = _training(name, RECIPES[name] | other.get(name, {}), job)
        # A process for each: after an error within a graph, CUDA may be unusable.
        for simpler in ({}, {"graphed": False}, {"graphed": False, "compiled": False}):
            left = min(end - time.monotonic(), job.left() - 3)
            if left < SHORTEST:
                break
            chosen: Any = simpler | {"seconds": left - ENDING}
            result = _train_apart(dataclasses.replace(training, **chosen), job)
            job.add(result, json.dumps({k: v for k, v in result.items() if k != "recipe"}))
            if "failed" not in result:
                break


def _training(name: str, recipe: dict[str, Any], job: Job) -> Training:
    training = Training(
        name,
        seed=0,
        model=name,
        recipe=recipe,
        compiled=True,
        graphed=True,
        save=str(job.folder),
        log_every=5 if name == "delugenet146" else 10,
    )
    if recipe.get("distillation"):
        trained = job.folder / f"{TEACHER}.safetensors"
        teacher = trained if trained.is_file() else find_model(TEACHER).weights
        training = dataclasses.replace(training, teacher=str(teacher))
    if job.smoke:
        size, small = ((4, 8, 16), (1, 1, 1)), recipe | {"batch_size": 50}
        training = dataclasses.replace(training, size=size, recipe=small)
    return training


def _train_apart(training: Training, job: Job) -> dict[str, Any]:
    """Train in a new process, and return the result or why there is none."""
    context: Any = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_train, args=(training, job.device, job.smoke, queue))
    process.start()
    process.join((training.seconds or 0) + 40)
    if process.is_alive():
        process.kill()
        process.join()
    if queue.empty():
        return {"name": training.name, "failed": f"exit status {process.exitcode}"}
    result: dict[str, Any] = queue.get()
    return result


def _train(training: Training, device: str, smoke: bool, queue: Any) -> None:
    torch.backends.cudnn.benchmark = True
    data = load(device, 200 if smoke else None, whole=True)
    try:
        queue.put(run(training, data, device))
    except Exception as error:  # the next network can still be trained
        failed = f"{type(error).__name__}: {error}"[:600]
        queue.put({"name": training.name, "failed": failed})
