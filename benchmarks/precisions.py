"""fp32, bf16 and int8 against a plain torch.onnx.export and the processor's peak rate.

    python benchmarks/precisions.py [--models delugenet92] [--rounds 9]

Needs the extra `export`, and `onnxscript` for PyTorch's exporter.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import onnxruntime
import torch

from delugeserve import BACKENDS, ModelSpec, find_model, fold
from delugeserve.networks.flops import count
from delugeserve.system import hardware
from delugeserve_export.calibration import collect_histograms
from delugeserve_export.graph import build_graph
from delugeserve_export.quantisation import Range, insert_qdq, quantisable_layers
from delugeserve_export.samples import sample_images
from delugeserve_export.source import load_source, untrained_source

METHOD = """The baseline is a plain torch.onnx.export(dynamo=True) of the network as trained, run by
ONNX Runtime. The others are this package's artefacts, loaded as the exporter loads them. For int8,
every convolution is quantised with ranges from eight images, which suffices to measure speed. All
use all cores. In a round, a contestant runs one batch to warm up, then whole batches until its
time is up, at least two; the figure is their mean. The bound is a product of two square bf16
matrices in PyTorch (oneDNN), timed in the same rounds. 'over plain' and 'over bf16' are speedups
over the baseline and over OpenVINO in bf16; 'of the bound' is the network's FLOP/s divided by
those of the matrix product."""

BASE = "plain: torch.onnx.export, ONNX Runtime"
BOUND = "bf16 matrix product"
ENGINES = (
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)
BATCH = 8
SIDE = 2048


def plain_export(network: torch.nn.Module, spec: ModelSpec) -> Callable[[Any], Any]:
    # Two images: with one, the exporter makes the batch dimension a constant.
    example = torch.zeros(2, *spec.input_shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of the exporter
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            dynamic_shapes={"images": {0: torch.export.Dim("N")}},
            verbose=False,
        )
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})


def quantise(graph: bytes, integers: Any, images: np.ndarray) -> bytes:
    layers = quantisable_layers(graph)
    tensors = sorted({tensor for group in layers.values() for tensor in group})
    found = collect_histograms(graph, tensors, images)
    ranges = {name: Range(one.maximum, one.signed) for name, one in found.items()}
    return insert_qdq(graph, ranges, layers, integers)


def load_engines(network: Any, spec: ModelSpec, images: np.ndarray, folder: Path) -> dict[str, Any]:
    folded, engines = fold(network), {}
    for name, precision in ENGINES:
        backend = BACKENDS[name]
        graph = build_graph(folded, spec.task, sum_form=backend.sum_form)
        if precision == "int8":
            graph = quantise(graph, backend.integers, images)
        place = folder / f"{spec.name}-{name}-{precision}"
        place.mkdir()
        artefact = backend.build(graph, place)
        title = f"{backend.title} {precision}"
        engines[title] = backend.load(artefact, precision)
        executed = backend.executed_precisions(artefact, precision)["Convolution"]
        counts = ", ".join(f"{number} in {name}" for name, number in executed.items())
        common.out.print(f"{title}: convolutions {counts}", highlight=False)
    return engines


def main() -> None:
    parser = common.options(__doc__, models=["delugenet92"], rounds=9, seconds=1.0)
    chosen = common.start(parser, METHOD)
    if not hardware.has_native_bf16():
        common.out.print("This processor emulates bf16: its figures are not representative.")
    matrix = torch.randn(SIDE, SIDE).bfloat16()
    results = []
    for spec in map(find_model, chosen.models):
        images = sample_images(spec.task, BATCH)[0]
        source = load_source(spec, None) or untrained_source(spec, images)
        planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / 255
        started = time.perf_counter()
        plain = plain_export(source.network, spec)
        common.err_console.print(f"exported by PyTorch in {time.perf_counter() - started:.0f} s")
        with tempfile.TemporaryDirectory() as folder:
            engines = load_engines(source.network, spec, images, Path(folder))
            run = partial(common.milliseconds, seconds=chosen.seconds)
            contestants = {
                BASE: partial(run, plain, planes),
                **{key: partial(run, infer, images) for key, infer in engines.items()},
                BOUND: partial(run, lambda one: one @ one, matrix),
            }
            title = f"{spec.name}, batch {BATCH}"
            samples = common.interleave(title, contestants, chosen.rounds)
        common.show(
            title,
            ("", "ms", "over plain", "over bf16", "of the bound"),
            [_row(samples, key, BATCH * count(spec).flops) for key in samples],
        )
        results.append({"model": spec.name, "batch": BATCH, "unit": "ms", "samples": samples})
    common.finish(chosen, results)


def _row(samples: common.Samples, key: str, flops: float) -> tuple[str, ...]:
    milliseconds = common.spread(samples[key])
    if key == BOUND:
        rate = 2e-6 * SIDE**3 / common.median_of(samples, key)
        return f"{key}, {rate:,.0f} GFLOP/s", milliseconds, "", "", ""
    product = 2 * SIDE**3 / np.array(samples[BOUND])
    fraction = flops / np.array(samples[key]) / product
    return (
        key,
        milliseconds,
        common.ratio(samples, BASE, key),
        common.ratio(samples, "OpenVINO bf16", key),
        common.spread(fraction.tolist()),
    )


if __name__ == "__main__":
    main()
