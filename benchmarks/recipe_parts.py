"""What each part of the recipe `cifar-fast` is worth: trainings that differ from it in one part.

    python benchmarks/recipe_parts.py --output FOLDER [--seeds 2] [--pflop 0.12] [--minutes 30]
    python benchmarks/recipe_parts.py --output FOLDER --parts whole,sgd --device cpu

Trains on 45,000 of CIFAR-10's training images and tests on the other 5,000; the test split is not
read. `DELUGESERVE_DATA` names the data. All trainings cost about the same FLOPs. Results are added
to FOLDER/parts.jsonl; a training that is there already is not repeated.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from gpu_data import load
from gpu_loop import Training, run

from delugeserve.errors import UnknownNameError
from delugeserve.system import hardware

WIDE = "delugeserve/weights/wide_delugenet38.safetensors"

# By name: what differs from the whole recipe.
PARTS: dict[str, dict[str, Any]] = {
    "whole": {},
    "Muon 0.03": {"recipe": {"muon_rate": 0.03}},
    "Muon 0.2": {"recipe": {"muon_rate": 0.2}},
    "SGD for all": {"recipe": {"muon_rate": 0.0, "learning_rate": 0.6, "warmup": 0.15}},
    "rate of the others 0.05": {"recipe": {"learning_rate": 0.05}},
    "rate of the others 0.8": {"recipe": {"learning_rate": 0.8}},
    "rate of biases x 16": {"recipe": {"bias_rate": 16.0}},
    "momentum of Muon 0.6": {"recipe": {"muon_momentum": 0.6}},
    "batch 250": {"recipe": {"batch_size": 250, "muon_rate": 0.055, "learning_rate": 0.1}},
    "batch 1000": {"recipe": {"batch_size": 1000, "muon_rate": 0.11, "learning_rate": 0.4}},
    "no whitening": {"recipe": {"whiten": False}},
    "random flips": {"recipe": {"flip": "random"}},
    "crops of 4 pixels": {"recipe": {"crop_padding": 4}},
    "cutout 8": {"recipe": {"cutout": 8}},
    "mixup 0.2": {"recipe": {"mixup": 0.2}},
    "label smoothing 0.2": {"recipe": {"label_smoothing": 0.2}},
    "no weight decay": {"recipe": {"weight_decay": 0.0}},
    "EMA 0.99": {"recipe": {"ema_decay": 0.99}, "graphed": False},
    "half on 24 x 24 pixels": {"recipe": {"small_images": 0.5}, "graphed": False},
    "taught by wide_delugenet38": {"recipe": {"distillation": 0.6}, "teacher": WIDE},
    "wider, 20 layers": {"size": [[32, 64, 128], [1, 2, 3]]},
    "wider, 38 layers": {"size": [[24, 48, 96], [2, 4, 6]]},
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--parts", help="names, separated by commas; default: all")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--pflop", type=float, default=0.12, help="training cost of each")
    parser.add_argument("--minutes", type=float, default=30, help="when no more are started")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--limit", type=int, help="images, to try the script")
    return parser.parse_args()


def main() -> None:
    chosen = parse_arguments()
    names = chosen.parts.split(",") if chosen.parts else list(PARTS)
    for name in names:
        if name not in PARTS:
            raise UnknownNameError("part", name, PARTS)
    chosen.output.mkdir(parents=True, exist_ok=True)
    file = chosen.output / "parts.jsonl"
    results = [json.loads(line) for line in file.open()] if file.is_file() else []
    print(hardware.describe(), flush=True)
    data = load(chosen.device, chosen.limit)
    end = time.monotonic() + 60 * chosen.minutes
    for seed in range(chosen.seeds):
        for name in names:
            if any((one["name"], one["seed"]) == (name, seed) for one in results):
                continue
            if time.monotonic() > end:
                print("The time is up.", flush=True)
                break
            on_gpu = chosen.device == "cuda"
            values = {"compiled": on_gpu, "graphed": on_gpu, "pflop": chosen.pflop} | PARTS[name]
            result = run(Training(name, seed, **values), data, chosen.device)
            results.append(result)
            with file.open("a") as log:
                log.write(json.dumps(result) + "\n")
            print(
                f"{name}, seed {seed}: error {result['error']:.2f} %, with flips "
                f"{result['error_flip']:.2f} %, {result['seconds']:.0f} s",
                flush=True,
            )
    print_table(results)


def print_table(results: list[dict[str, Any]]) -> None:
    errors: dict[str, list[float]] = {}
    for one in results:
        errors.setdefault(one["name"], []).append(one["error"])
    whole = mean(errors["whole"]) if "whole" in errors else float("nan")
    print("\npart | mean error, % | difference | seeds\n---|---|---|---")
    for name, found in errors.items():
        print(f"{name} | {mean(found):.2f} | {mean(found) - whole:+.2f} | {len(found)}")


if __name__ == "__main__":
    main()
