"""The gate's part of an export: run the built artefact, or check what can be checked without it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from delugeserve.artifacts.interface import Infer, Precision
from delugeserve.artifacts.records import Check, Quantisation, Verification
from delugeserve.errors import MissingDeviceError, PlanError
from delugeserve.runtimes import BACKENDS
from delugeserve.runtimes.base import load_runs
from delugeserve.verification.evidence import Evidence
from delugeserve.verification.gate import check_precision, not_run, verify
from delugeserve.verification.parity import BUDGETS, compare
from delugeserve_export.plan import ExportPlan
from delugeserve_export.source import Source

# ONNX Runtime has no bf16 convolution on the CPU; OpenVINO rounds to bf16 where the graph does.
_RUNNERS: Mapping[Precision, str] = {"bf16": "openvino"}


def prove(
    plan: ExportPlan,
    artefact: Path,
    graph: bytes,
    unquantised: bytes | None,
    quantisation: Quantisation | None,
    source: Source,
    evidence: Evidence,
    workspace: Path,
) -> tuple[Verification, dict[Precision, Infer]]:
    """Verify a built artefact.

    Args:
        plan: the export.
        artefact: the file to verify, as it will be published.
        graph: the ONNX model that it was built from.
        unquantised: for int8, the same model in fp32, which verifies the weights.
        quantisation: for int8, which layers were quantised.
        source: the network.
        evidence: images with the network's logits.
        workspace: a folder for temporary files.

    Returns:
        The result, and how the artefact runs in each precision; empty if it cannot run here.
    """
    backend, precision = plan.backend, plan.precision
    quantised = len(quantisation.layers) if quantisation else None
    executed = backend.executed_precisions(artefact, precision).get("Convolution")
    try:
        runs = load_runs(backend, artefact, precision)
    except (MissingDeviceError, PlanError) as error:
        # The plan was built a moment ago, so it is for a machine with another GPU or driver.
        reason = error.problem.removesuffix(".").replace(f"{artefact.parent}/", "")
        in_engine = check_precision(precision, executed or {}, quantised)
        in_graph = check_graph(
            graph,
            workspace,
            evidence,
            precision=precision,
            batch_size=plan.build.max_batch_size,
            trained=source.trained,
        )
        return not_run(evidence, reason, in_engine, in_graph), {}
    if unquantised is not None:
        runs["fp32"] = backend.load(backend.build(unquantised, workspace), "fp32")
    verification = verify(
        runs,
        evidence,
        precision=precision,
        sizes=plan.batch_sizes,
        trained=source.trained,
        class_names=source.spec.task.class_names,
        computed_in=executed,
        quantised=quantised,
    )
    return verification, runs


def check_graph(
    graph: bytes,
    folder: Path,
    evidence: Evidence,
    *,
    precision: Precision,
    batch_size: int,
    trained: bool,
) -> Check:
    """Run a plan's ONNX graph on the CPU, in the types that it is written in.

    This verifies what the plan was built from, not the plan.

    Args:
        graph: a serialised ONNX model.
        folder: where to write it.
        evidence: images with the network's logits.
        precision: what the graph computes in.
        batch_size: images per call.
        trained: False for a network whose classes mean nothing.

    Returns:
        Whether it keeps to the precision's budget. The check's name says that it is of the graph.
    """
    backend = BACKENDS[_RUNNERS.get(precision, "onnxruntime")]
    path = folder / "graph.onnx"
    path.write_bytes(graph)
    infer = backend.load(path, "fp32")
    found = compare(infer, evidence.images, evidence.logits, batch_size, precision)
    allowed = BUDGETS[precision].allowed_error(trained=trained)
    return Check(
        f"ONNX graph in {precision}, by {backend.title}",
        found.relative_error <= allowed,
        f"RMS error {found.relative_error:.2g}, same top-1 {found.top1_agreement:.1%}",
        f"RMS error at most {allowed:.2g}",
        f"largest difference {found.max_error:.2g}, image {found.worst_image}",
    )
