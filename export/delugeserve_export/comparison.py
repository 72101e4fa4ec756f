"""Every engine that this machine can run, compared: size, error, speed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from delugeserve.artifacts.interface import Infer
from delugeserve.data.datasets import LabelledImages
from delugeserve.errors import DelugeServeError, Failure, MissingExtraError, reason_of
from delugeserve.evaluation.evaluate import evaluate
from delugeserve.runtimes import BACKENDS
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve.verification.verify import load_version
from delugeserve_export.pipeline import export
from delugeserve_export.plan import ExportPlan
from delugeserve_export.speed import fill_batch, measure_speed

Status = Literal["passed", "built, not run", "failed", "refused", "not installed"]

BASELINE = ("onnxruntime", "fp32")
"""The engine that others' speed is divided by: the one that everybody has."""


@dataclass(frozen=True)
class Row:
    """One backend in one precision.

    Attributes:
        backend: Triton's name of the backend.
        precision: what it computes in.
        status: ``passed``; ``failed`` a check or the build; ``refused`` an option; ...
        reason: why not ``passed``.
        megabytes: size of the artefact.
        top1_error: on the labelled images, in percent; None without them.
        top1_agreement: fraction of the verified images with the network's top-1 class; None if it
            was not run.
        milliseconds: of a batch, by batch size.
        speedup: ``images_per_s`` divided by that of :data:`BASELINE`; None if either was not timed.
    """

    backend: str
    precision: str
    status: Status
    reason: str = ""
    megabytes: float | None = None
    top1_error: float | None = None
    top1_agreement: float | None = None
    milliseconds: dict[int, float] = field(default_factory=dict)
    speedup: float | None = None

    @property
    def images_per_s(self) -> float | None:
        """At the batch size with the most."""
        rates = [1000 * size / ms for size, ms in self.milliseconds.items()]
        return max(rates, default=None)


def every_engine() -> list[tuple[str, str]]:
    """Return the names of all backends, each with all its precisions."""
    return [(name, one) for name, backend in BACKENDS.items() for one in backend.precisions]


def compare_engines(
    plan_for: Callable[[str, str, Path], ExportPlan],
    engines: Iterable[tuple[str, str]],
    folder: Path,
    *,
    sizes: Sequence[int],
    images: NDArray[np.uint8],
    labelled: LabelledImages | None = None,
    progress: Progress = NO_PROGRESS,
) -> list[Row]:
    """Export a model for every engine, and time those that pass in turn.

    Args:
        plan_for: plans the export for a backend and a precision into a repository.
        engines: backends and precisions.
        folder: an empty folder for the repositories.
        sizes: batch sizes to time.
        images: uint8 ``[K, H, W, 3]``, repeated to fill a batch.
        labelled: images of the network's classes, to measure the error on.
        progress: receives a stage for the exports and one for the timing.

    Returns:
        A row for each engine, whatever became of it: the fastest first, then those that were not
        timed in the order given.
    """
    rows: list[Row] = []
    loaded: dict[str, Infer] = {}
    engines = list(engines)
    progress.stage("export", len(engines))
    for backend, precision in engines:
        try:
            row, version = _export_one(plan_for, backend, precision, folder)
            if version is not None and row.status == "passed":
                _, infer = load_version(version)
                _run_once(infer, images, sizes)
                if labelled is not None:
                    error = _top1_error(infer, labelled, max(sizes))
                    row = dataclasses.replace(row, top1_error=error)
                loaded[_key(row)] = infer
        except Exception as error:  # whatever a runtime raises, the others keep their rows
            row = _failed(backend, precision, error)
        rows.append(row)
        progress.advance(note=f"{backend} {precision}")
    progress.stage("time")
    speed = measure_speed(loaded, images, sizes)
    return _rank([dataclasses.replace(row, milliseconds=speed.get(_key(row), {})) for row in rows])


def _rank(rows: list[Row]) -> list[Row]:
    baseline = next(
        (row.images_per_s for row in rows if (row.backend, row.precision) == BASELINE), None
    )
    if baseline:
        rows = [
            dataclasses.replace(row, speedup=round(row.images_per_s / baseline, 4))
            if row.images_per_s
            else row
            for row in rows
        ]
    return sorted(rows, key=lambda row: -(row.images_per_s or 0))


def _export_one(
    plan_for: Callable[[str, str, Path], ExportPlan], backend: str, precision: str, folder: Path
) -> tuple[Row, Path | None]:
    outcome = export(plan_for(backend, precision, folder / f"{backend}-{precision}"))
    manifest = outcome.manifest
    verification = manifest.verification
    status = verification.status
    reasons = {"failed": outcome.problem, "built, not run": verification.checks[0].found}
    compared = verification.comparisons
    return Row(
        backend,
        precision,
        status,
        reasons.get(status, ""),
        megabytes=round(manifest.artefact_bytes / 1e6, 3),
        top1_agreement=compared[-1].top1_agreement if compared else None,
    ), outcome.folder


def _failed(backend: str, precision: str, error: Exception) -> Row:
    if isinstance(error, MissingExtraError):
        return Row(backend, precision, "not installed", error.remedy)
    if isinstance(error, DelugeServeError):
        status: Status = "failed" if isinstance(error, Failure) else "refused"
        return Row(backend, precision, status, error.problem)
    return Row(backend, precision, "failed", reason_of(error))


def _run_once(infer: Infer, images: NDArray[np.uint8], sizes: Sequence[int]) -> None:
    """Run every batch size: a failure here costs this engine its row; later it would cost all."""
    for size in sizes:
        infer(fill_batch(images, size))


def _top1_error(infer: Infer, labelled: LabelledImages, batch_size: int) -> float:
    error = evaluate(lambda images: infer(images)[0], labelled, batch_size=batch_size).top1_error
    return round(error, 4)  # 11.13 rather than 11.129999999999999


def _key(row: Row) -> str:
    return f"{row.backend} {row.precision}"
