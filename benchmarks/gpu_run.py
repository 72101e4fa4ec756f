"""Everything this project measures on an NVIDIA GPU, in one command of limited time.

    python benchmarks/gpu_run.py --output FOLDER [--minutes 11] [--sections sums,memory]
    python benchmarks/gpu_run.py --output FOLDER --device cpu --smoke

Each section runs in a process of its own and has a share of the time. A section that fails or takes
too long does not affect the others: what it measured until then is kept. FOLDER/report.json holds
the results of all sections; training adds its own files.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import torch
from gpu_job import Job, first_line

from delugeserve.system import hardware
from delugeserve.system.files import atomic_write

PACKAGES = ("lightning", "triton", "onnxruntime-gpu")
START = 15.0  # seconds to import PyTorch and to initialise CUDA, at most
SMOKE_SECONDS = 300.0  # of each section, since a processor compiles more slowly than a GPU
LARGEST_FILE = 15 << 20  # bytes; larger files are split


@dataclass(frozen=True)
class Section:
    """A part of the run.

    Attributes:
        module: the module that measures it.
        function: its function, which takes a :class:`Job`.
        seconds: its share of the time; None for what the others leave.
    """

    module: str
    function: str
    seconds: float | None


# A function takes the section's Job: it adds results, and puts other files into the job's folder.
# In this order: training comes after the short ones and before inference, which uses its network.
SECTIONS = {
    "sums": Section("gpu_sums", "measure_sums", 40),
    "memory": Section("gpu_memory", "measure_memory", 40),
    "training": Section("gpu_training", "train_networks", None),
    "inference": Section("gpu_inference", "measure_inference", 110),
}


def describe(device: str) -> dict[str, Any]:
    """Return the machine and the versions, and print them."""
    found: dict[str, Any] = {
        "machine": hardware.describe(),
        "versions": common.versions(PACKAGES),
        "CUDA": torch.version.cuda,
        "device": device,
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "GPU": properties.name,
            "compute capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory": f"{properties.total_memory >> 20} MiB",
            "L2 cache": f"{getattr(properties, 'L2_cache_size', 0) >> 20} MiB",
            "cuDNN": torch.backends.cudnn.version(),
            "nvidia-smi": _nvidia_smi(),
        }
    for key, value in found.items():
        text = ", ".join(f"{n} {v}" for n, v in value.items()) if key == "versions" else value
        print(f"{key}: {text}", flush=True)
    return found


def _nvidia_smi() -> str:
    query = "--query-gpu=name,driver_version,memory.used,clocks.sm,clocks.mem,power.draw"
    try:
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return first_line(error)
    return (done.stdout or done.stderr).strip()


def plan(names: Sequence[str], total: float, *, strict: bool = True) -> dict[str, float]:
    """Return the seconds of each section.

    Args:
        names: the sections to run.
        total: seconds for all of them, their starts included.
        strict: whether a total that is too short is an error.

    Raises:
        ValueError: the total is too short.
    """
    fixed = {name: SECTIONS[name].seconds for name in names}
    rest = total - START * len(names) - sum(seconds or 0 for seconds in fixed.values())
    open_ones = [name for name, seconds in fixed.items() if seconds is None]
    if strict and (rest < 0 or (open_ones and rest < 30)):
        raise ValueError(f"{total / 60:g} minutes are too few for the sections {', '.join(names)}")
    return {
        name: max(0.0, rest) if seconds is None else min(seconds, max(0.0, total - START))
        for name, seconds in fixed.items()
    }


def run_section(name: str, chosen: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Run a section in a process of its own, and return what came of it."""
    print(f"\n{name}: at most {seconds:.0f} s", flush=True)
    command = [sys.executable, str(Path(__file__).resolve()), "--output", str(chosen.output)]
    command += ["--device", chosen.device, "--run-section", name, "--seconds", f"{seconds:.1f}"]
    if chosen.smoke:
        command.append("--smoke")
    start = time.monotonic()
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait(seconds + START)
        status = "complete" if code == 0 else f"failed with exit status {code}"
    except subprocess.TimeoutExpired:
        status = "stopped: its time was up"
    finally:
        _kill_group(process)
    outcome: dict[str, Any] = {
        "status": status,
        "seconds": round(time.monotonic() - start, 1),
        "budget": round(seconds, 1),
        "results": [],
    }
    file = Job(name, chosen.output, chosen.device, 0).file
    if file.is_file():
        outcome["results"] = json.loads(file.read_text(encoding="utf-8"))
        file.unlink()
    print(f"{name}: {status} after {outcome['seconds']:.0f} s", flush=True)
    return outcome


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started, such as compilers."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def in_this_process(chosen: argparse.Namespace) -> int:
    """Run one section here; return the exit status."""
    hardware.order_gpus()
    section = SECTIONS[chosen.run_section]
    job = Job(chosen.run_section, chosen.output, chosen.device, chosen.seconds, chosen.smoke)
    try:
        measure: Callable[[Job], None] = getattr(
            importlib.import_module(section.module), section.function
        )
        measure(job)
    except Exception as error:
        traceback.print_exc()
        job.add({"error": first_line(error)}, f"error: {first_line(error)}")
        return 1
    return 0


def split_large_files(folder: Path, largest: int = LARGEST_FILE) -> None:
    """Split the files of a folder that are too large to copy in one piece."""
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.stat().st_size <= largest:
            continue
        content = path.read_bytes()
        parts = [content[at : at + largest] for at in range(0, len(content), largest)]
        for number, part in enumerate(parts):
            path.with_name(f"{path.name}.part{number}").write_bytes(part)
        path.unlink()
        print(f"{path.name} is split: cat {path.name}.part* > {path.name}", flush=True)


def run_all(chosen: argparse.Namespace) -> int:
    """Run the sections one after the other; return the exit status."""
    report: dict[str, Any] = {
        "command": f"python benchmarks/gpu_run.py {' '.join(sys.argv[1:])}",
        "smoke": chosen.smoke,
        **describe(chosen.device),
        "sections": {},
    }
    if chosen.smoke:
        print("SMOKE: the figures below are meaningless.", flush=True)
    end = time.monotonic() + 60 * chosen.minutes
    for index, name in enumerate(chosen.sections):
        # Training also gets the time that the sections before it did not need.
        later = plan(chosen.sections[index:], end - time.monotonic(), strict=False)
        allowed = SMOKE_SECONDS if chosen.smoke else later[name]
        report["sections"][name] = run_section(name, chosen, allowed)
        with atomic_write(chosen.output / "report.json") as path:
            path.write_text(json.dumps(report) + "\n", encoding="utf-8")
    if chosen.split:
        split_large_files(chosen.output)
    print(f"\nwrote {', '.join(sorted(path.name for path in chosen.output.iterdir()))}", flush=True)
    complete = all(part["status"] == "complete" for part in report["sections"].values())
    return 0 if complete else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--sections",
        type=lambda text: text.split(","),
        default=list(SECTIONS),
        metavar="NAME,NAME",
        help=f"default: {','.join(SECTIONS)}",
    )
    parser.add_argument("--minutes", type=float, default=11.0, help="time of the whole run")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), help="default: cuda if PyTorch can use it"
    )
    parser.add_argument("--smoke", action="store_true", help="show that it runs, on tiny networks")
    parser.add_argument(
        "--split", action="store_true", help="split files of more than 15 MiB into parts"
    )
    parser.add_argument("--run-section", choices=list(SECTIONS), help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    chosen.output = chosen.output.resolve()
    chosen.output.mkdir(parents=True, exist_ok=True)
    if chosen.run_section:
        return in_this_process(chosen)
    chosen.sections = [name for name in SECTIONS if name in chosen.sections] or parser.error(
        f"--sections: choose from {', '.join(SECTIONS)}"
    )
    if chosen.device != "cpu" and not torch.cuda.is_available():
        if chosen.device == "cuda":
            parser.error(f"PyTorch {torch.__version__} cannot use a GPU; use --device cpu")
        chosen.device = "cpu"
    chosen.device = chosen.device or "cuda"
    try:
        plan(chosen.sections, 60 * chosen.minutes)
    except ValueError as error:
        parser.error(f"{error}: use a larger --minutes, or fewer --sections")
    with tempfile.TemporaryDirectory() as cache:
        # Compiled code is kept for the sections of this run only.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{cache}/inductor")
        os.environ.setdefault("TRITON_CACHE_DIR", f"{cache}/triton")
        return run_all(chosen)


if __name__ == "__main__":
    sys.exit(main())
