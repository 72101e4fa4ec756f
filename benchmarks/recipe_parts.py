"""Worth of each part of a recipe: short trainings that differ in one part, on a held-out split.

    python benchmarks/recipe_parts.py --output FOLDER --jobs JOBS.json [--minutes 3] [--processes 5]

Trains on 45,000 of CIFAR-10's training images and tests on the other 5,000; the test split is not
read. `DELUGESERVE_DATA` names the data. Every variant costs the same FLOPs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from gpu_training import load, run


def work(
    rank: int,
    processes: int,
    jobs: list[dict[str, Any]],
    output: str,
    end: float,
    device: str,
    limit: int | None,
) -> None:
    torch.set_num_threads(2)
    torch.backends.cudnn.benchmark = True
    data = load(device, limit)
    print(f"{rank}: data", flush=True)
    for number in range(rank, len(jobs), processes):
        if time.time() > end:
            print(f"{rank}: no time for {jobs[number]['name']}", flush=True)
            continue
        try:
            result = run(jobs[number], data, device)
        except Exception as error:
            result = {
                "name": jobs[number]["name"],
                "failed": f"{type(error).__name__}: {error}"[:300],
            }
        with Path(output, f"parts-{rank}.jsonl").open("a") as file:
            file.write(json.dumps(result) + "\n")
        short = {k: v for k, v in result.items() if k not in ("recipe", "model")}
        print(json.dumps(short), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--jobs", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    jobs = json.loads(chosen.jobs.read_text())
    end = time.time() + 60 * chosen.minutes
    arguments = (chosen.processes, jobs, str(chosen.output), end, chosen.device, chosen.limit)
    if chosen.processes == 1:
        work(0, *arguments)
    else:
        torch.multiprocessing.spawn(work, arguments, chosen.processes)


if __name__ == "__main__":
    main()
