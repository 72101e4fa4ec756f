"""ONNX Runtime against OpenVINO, fp32 and bf16, for every form of the weighted sum.

    python benchmarks/runtimes.py [--models delugenet38,delugenet146,delugenet92] [--rounds 9]

Needs the extra `export`.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np

from delugeserve import BACKENDS, ModelSpec, find_model, fold
from delugeserve.system import hardware
from delugeserve_export.graph import build_graph
from delugeserve_export.samples import sample_images
from delugeserve_export.source import load_source, untrained_source
from delugeserve_export.tuning import FORMS

METHOD = """The folded network is written once with each form of the cross-layer sum: Add nodes
with Mul ('mul'), BatchNormalization ('batchnorm') or depthwise Conv ('conv'), or alternating Mul
and Add by Horner's scheme ('horner'). Every runtime loads each graph as the exporter does, with
all cores. In a round, a contestant runs one batch to warm up, then whole batches until its time
is up, at least two; the figure is their mean."""

BASE = "ONNX Runtime fp32, batchnorm"
ENGINES = (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))


def load_engines(spec: ModelSpec, images: np.ndarray, folder: Path) -> dict[str, Any]:
    source = load_source(spec, None) or untrained_source(spec, images)
    folded, engines = fold(source.network), {}
    for form in FORMS:
        graph = build_graph(folded, spec.task, sum_form=form)
        for name, precision in ENGINES:
            backend = BACKENDS[name]
            place = folder / f"{spec.name}-{form}-{name}-{precision}"
            place.mkdir()
            infer = backend.load(backend.build(graph, place), precision)
            engines[f"{backend.title} {precision}, {form}"] = infer
    return engines


def main() -> None:
    parser = common.options(
        __doc__, models=["delugenet38", "delugenet146", "delugenet92"], rounds=9, seconds=0.5
    )
    chosen = common.start(parser, METHOD)
    if not hardware.has_native_bf16():
        common.out.print("This processor emulates bf16: its figures are not representative.")
    results = []
    for spec in map(find_model, chosen.models):
        images, _ = sample_images(spec.task, 32)
        with tempfile.TemporaryDirectory() as folder:
            engines = load_engines(spec, images, Path(folder))
            for batch in (1, 8) if spec.architecture.stem == "imagenet" else (1, 8, 32):
                contestants = {
                    key: partial(common.milliseconds, infer, images[:batch], chosen.seconds)
                    for key, infer in engines.items()
                }
                title = f"{spec.name}, batch {batch}"
                samples = common.interleave(title, contestants, chosen.rounds)
                rows = [
                    (
                        key,
                        common.spread(samples[key]),
                        f"{1e3 * batch / common.median_of(samples, key):,.0f}",
                        common.ratio(samples, BASE, key),
                    )
                    for key in contestants
                ]
                columns = ("", "ms per batch", "images/s", f"speed over {BASE}")
                common.show(title, columns, rows)
                results.append(
                    {"model": spec.name, "batch": batch, "unit": "ms", "samples": samples}
                )
    common.finish(chosen, results)


if __name__ == "__main__":
    main()
