"""Throughput of a Triton server against the same engine in process.

    python benchmarks/serving_throughput.py [--models delugenet38,delugenet146] [--backend auto]

Needs the extras `export` and `server`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
from closed_loop import ClosedLoop, random_images

from delugeserve import BACKENDS, find_model
from delugeserve_export import export, plan_export

METHOD = """One artefact, exported once, runs with all cores in this process and in the server's
model process; whichever is not being timed is idle. In process: one call after the other. Server:
gRPC on the loopback, a closed loop with a fixed number of requests in flight; the callback of a
response sends the next request. After a warm-up, the responses in a window of fixed length are
counted (a multiple of it, for a slow model). Client, server and engine share the cores, so the
client's work slows the server down: the client is one process, with requests prepared in advance
and responses counted. The table gives what it uses, in cores, and the CPU time of an image in all
processes together. On a machine that does other work, compare the CPU times instead of the rates:
as a share of the server's, that of the best batch in process is the ratio of the rates of a machine
whose cores are always busy."""

IN_PROCESS_BATCHES = (1, 8, 16, 32, 64)
LOADS = ((16, 2), (16, 4), (1, 32), (1, 64))  # images per request, requests in flight


class InProcess:
    """One call after the other in this process; a call returns images/s.

    Attributes:
        cpu: CPU time for an image, in seconds, one figure per call.
    """

    def __init__(self, infer: Callable[..., Any], images: np.ndarray, seconds: float) -> None:
        self.infer, self.images, self.seconds = infer, images, seconds
        self.cpu: list[float] = []

    def __call__(self) -> float:
        """Run it for some seconds and return images/s."""
        self.infer(self.images)  # warm up: the contestant before had another batch size
        count, start, used = 0, time.perf_counter(), time.process_time()
        while (elapsed := time.perf_counter() - start) < self.seconds:
            self.infer(self.images)
            count += len(self.images)
        self.cpu.append((time.process_time() - used) / count)
        return count / elapsed


def compare(
    name: str, artefact: Path, infer: Any, server: common.Served, chosen: Any
) -> dict[str, Any]:
    """Time the contestants of a model and print their table; return the report."""
    size, seconds = find_model(name).task.image_size, chosen.seconds
    local = {
        f"in process, batch {batch}": InProcess(infer, random_images(batch, size), seconds)
        for batch in IN_PROCESS_BATCHES
    }
    remote = {
        f"server, batch {batch}, {flying} in flight": ClosedLoop(
            server, name, batch, flying, seconds
        )
        for batch, flying in LOADS
    }
    contestants: dict[str, InProcess | ClosedLoop] = {**local, **remote}
    samples = common.interleave(name, contestants, chosen.rounds)
    best = max(local, key=partial(common.median_of, samples))
    cpu = {key: one.cpu for key, one in contestants.items()}
    rows = []
    for key in samples:
        row = [key, common.spread(samples[key], ",.0f")]
        row.append(common.spread(1e6 * np.array(cpu[key]), ",.0f"))
        if key in remote:
            load = remote[key]
            row.append(common.ratio(samples, key, f"in process, batch {load.batch}"))
            row.append(common.ratio(samples, key, best))
            row.append(common.ratio(cpu, best, key))
            row += [f"{np.median(load.executed):.1f}", f"{np.median(load.cores):.2f}"]
        rows.append(row)
    columns = ["", "images/s", "CPU us an image", "to same batch", "to best batch"]
    columns += ["best's CPU to its", "batch run", "client cores"]
    common.show(f"{name}: {artefact.name}; best is '{best}'", columns, rows)
    loads = {key: {"executed": load.executed, "cores": load.cores} for key, load in remote.items()}
    return {
        "model": name,
        "unit": "images/s",
        "samples": samples,
        "cpu": cpu,
        "best": best,
        "loads": loads,
    }


def main() -> None:
    parser = common.options(__doc__, models=["delugenet38", "delugenet146"], rounds=9, seconds=3.0)
    parser.add_argument("--backend", default="auto", help="onnxruntime, openvino or auto")
    chosen = common.start(parser, METHOD)
    results, engines = [], {}
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "repository"
        for name in chosen.models:
            done = export(plan_export(name, repository=repository, backend=chosen.backend))
            backend = BACKENDS[done.manifest.backend]
            (artefact,) = [*done.folder.glob("model.onnx"), *done.folder.glob("model.xml")]
            engines[name] = artefact, backend.load(artefact, done.manifest.precision)
            common.out.print(f"{name}: {backend.title} in {done.manifest.precision}")
        with common.serving(repository) as server:
            for name, (artefact, infer) in engines.items():
                results.append(compare(name, artefact, infer, server, chosen))
    common.finish(chosen, results)


if __name__ == "__main__":
    main()
