"""Duration of an export: the graph builder and the whole command against torch.onnx.export.

    python benchmarks/export_time.py [--models delugenet92,delugenet146] [--rounds 5]

Needs the extra `export`, and `onnxscript` for PyTorch's exporter.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import common

METHOD = """Every sample is taken in a fresh process, as the first export of a process is what a
user waits for. The graph builder and PyTorch's exporters start from the same network in memory and
end with the serialised model in memory; imports are not counted. 'delugeserve export' counts
everything: interpreter, imports, network, graph, the runtime's artefact, the proof on real images,
publication."""

BASE = "torch.onnx.export(dynamo=True)"


def graph_builder(name: str) -> float:
    from delugeserve import fold
    from delugeserve_export.graph import build_graph

    network, spec = _network(name)
    start = time.perf_counter()
    build_graph(fold(network), spec.task)
    return time.perf_counter() - start


def command(name: str, stages: list[dict[str, float]]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["export", "--model", name, "--repository", f"{folder}/repository", "--json"]
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "delugeserve", *arguments],
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        seconds = time.perf_counter() - start
    manifest = json.loads(done.stdout)
    stages.append(manifest["seconds"])
    common.err_console.print(f"  {manifest['backend']} in {manifest['precision']}: {seconds:.1f} s")
    return seconds


def dynamo(name: str) -> float:
    import onnxscript  # noqa: F401 - imported now, so that its import is not counted
    import torch

    network, spec = _network(name)
    # Two images: with one, the exporter makes the batch dimension a constant.
    example = torch.zeros(2, *spec.input_shape)
    batch = {"images": {0: torch.export.Dim("N")}}
    start = time.perf_counter()
    program = torch.onnx.export(
        network, (example,), dynamo=True, dynamic_shapes=batch, verbose=False
    )
    program.model_proto.SerializeToString()
    return time.perf_counter() - start


def torchscript(name: str) -> float:
    import torch

    network, spec = _network(name)
    example = torch.zeros(2, *spec.input_shape)
    names = {"input_names": ["images"], "dynamic_axes": {"images": {0: "N"}}}
    start = time.perf_counter()
    torch.onnx.export(network, (example,), io.BytesIO(), dynamo=False, **names)
    return time.perf_counter() - start


def _network(name: str) -> tuple[Any, Any]:
    import logging

    from delugeserve import build_network, find_model

    warnings.simplefilter("ignore")  # deprecations, and the absence of torchvision
    logging.disable(logging.WARNING)
    spec = find_model(name)
    return build_network(spec, seed=0).eval(), spec


def in_fresh_process(function: Callable[[], float]) -> float:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function).result()


def main() -> None:
    parser = common.options(__doc__, models=["delugenet92", "delugenet146"], rounds=5)
    chosen = common.start(parser, METHOD)
    results = []
    for name in chosen.models:
        stages: list[dict[str, float]] = []
        functions = {
            "fold + build_graph": partial(graph_builder, name),
            BASE: partial(dynamo, name),
            "torch.onnx.export(dynamo=False)": partial(torchscript, name),
        }
        contestants = {key: partial(in_fresh_process, call) for key, call in functions.items()}
        contestants["delugeserve export"] = partial(command, name, stages)
        samples = common.interleave(name, contestants, chosen.rounds)
        rows = [
            (key, common.spread(samples[key]), common.ratio(samples, key, BASE))
            for key in contestants
        ]
        columns = ("", "seconds", "ratio to dynamo=True")
        common.show(f"{name}: from a network to ONNX", columns, rows)
        rows = [(key, common.spread([run[key] for run in stages])) for key in stages[0]]
        common.show(f"{name}: stages of delugeserve export", ("stage", "seconds"), rows)
        results.append({"model": name, "unit": "s", "samples": samples, "stages": stages})
    common.finish(chosen, results)


if __name__ == "__main__":
    main()
