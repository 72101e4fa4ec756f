"""What can be shown of an artefact that computes in the types of its graph, without its GPU.

Its graph, in the same types, is run on the processor: that shows what the artefact was built from,
and not the artefact.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from delugeserve.artifacts.interface import Precision
from delugeserve.artifacts.records import Check
from delugeserve.runtimes import BACKENDS
from delugeserve.verification.evidence import Evidence
from delugeserve.verification.parity import BUDGETS, compare

# ONNX Runtime has no bf16 convolution on the CPU; OpenVINO rounds to bf16 where the graph does.
_RUNNERS: Mapping[Precision, str] = {"bf16": "openvino"}


def check_graph(
    graph: bytes,
    folder: Path,
    evidence: Evidence,
    *,
    precision: Precision,
    batch_size: int,
    trained: bool,
) -> Check:
    """Run a graph on the CPU, in the types it is written in, and compare.

    Args:
        graph: a serialised ONNX model.
        folder: where it may be written to.
        evidence: the network's answers.
        precision: what the graph computes in.
        batch_size: images in one call.
        trained: whether the network's classes mean anything.

    Returns:
        Whether it keeps to the precision's budget, said to be the graph's and of which runtime.
    """
    backend = BACKENDS[_RUNNERS.get(precision, "onnxruntime")]
    path = folder / "graph.onnx"
    path.write_bytes(graph)
    infer = backend.load(path, "fp32")
    found = compare(infer, evidence.images, evidence.logits, batch_size, precision)
    allowed = BUDGETS[precision].allowed_error(trained=trained)
    return Check(
        f"its ONNX graph in {precision}, by {backend.title}",
        found.relative_error <= allowed,
        f"logits within {found.relative_error:.2g} of their spread, the same class on "
        f"{found.top1_agreement:.1%}",
        f"at most {allowed:.2g}",
        f"the most, {found.max_error:.2g}, at image {found.worst_image}",
    )
