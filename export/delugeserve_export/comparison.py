"""Every engine that this machine can run, side by side: size, error, speed."""

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
from delugeserve.verification.verify import load_version
from delugeserve_export.pipeline import export
from delugeserve_export.request import Request
from delugeserve_export.speed import fill_batch, measure_speed

Status = Literal["passed", "built, not run", "failed", "refused", "not installed"]


@dataclass(frozen=True)
class Row:
    """One backend in one precision.

    Attributes:
        backend: its name.
        precision: what it computes in.
        status: ``passed`` the gate; ``failed`` it, or the build; ``refused`` what was asked.
        reason: of another status than ``passed``.
        megabytes: size of the artefact.
        top1_error: in percent of the labelled images; None without any.
        top1_agreement: fraction of the images it was verified on that it takes for the network's
            class; None where it was not run.
        milliseconds: of a batch, by batch size.
    """

    backend: str
    precision: str
    status: Status
    reason: str = ""
    megabytes: float | None = None
    top1_error: float | None = None
    top1_agreement: float | None = None
    milliseconds: dict[int, float] = field(default_factory=dict)

    @property
    def images_per_s(self) -> float | None:
        """At the batch size that gives the most."""
        rates = [1000 * size / ms for size, ms in self.milliseconds.items()]
        return max(rates, default=None)


def every_engine() -> list[tuple[str, str]]:
    """The names of all backends, each with all its precisions."""
    return [(name, one) for name, backend in BACKENDS.items() for one in backend.precisions]


def compare_engines(
    request: Request,
    engines: Iterable[tuple[str, str]],
    folder: Path,
    *,
    sizes: Sequence[int],
    images: NDArray[np.uint8],
    labelled: LabelledImages | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """Export a model in every way, and time what came through side by side.

    Args:
        request: what to export; backend, precision and repository are set here.
        engines: backends and precisions.
        folder: an empty folder for the artefacts.
        sizes: batch sizes to time.
        images: uint8 ``[K, H, W, 3]``, repeated to fill a batch.
        labelled: images of the network's own classes, to measure the error on.
        on_stage: told what is being done.

    Returns:
        A row for each engine, whatever became of it.
    """
    rows: list[Row] = []
    loaded: dict[str, Infer] = {}
    for backend, precision in engines:
        on_stage(f"{backend} {precision}")
        try:
            row, version = _export_one(request, backend, precision, folder)
            if row.status == "passed":
                _, infer = load_version(version)
                _run_once(infer, images, sizes)
                if labelled is not None:
                    wrong = _top1_error(infer, labelled, max(sizes))
                    row = dataclasses.replace(row, top1_error=wrong)
                loaded[_key(row)] = infer
        except Exception as error:  # whatever a runtime raises, the others keep their rows
            row = _lost(backend, precision, error)
        rows.append(row)
    on_stage("timing")
    speed = measure_speed(loaded, images, sizes)
    return [dataclasses.replace(row, milliseconds=speed.get(_key(row), {})) for row in rows]


def _export_one(request: Request, backend: str, precision: str, folder: Path) -> tuple[Row, Path]:
    repository = folder / f"{backend}-{precision}"
    wanted = dataclasses.replace(
        request, backend=backend, precision=precision, repository=repository
    )
    done = export(wanted)
    manifest = done.manifest
    verification = manifest.verification
    compared = verification.comparisons
    passed = verification.status == "passed"
    return Row(
        backend,
        precision,
        "passed" if passed else "built, not run",
        "" if passed else verification.checks[0].found,
        megabytes=manifest.artefact_bytes / 1e6,
        top1_agreement=compared[-1].top1_agreement if compared else None,
    ), done.folder


def _lost(backend: str, precision: str, error: Exception) -> Row:
    """The row of an engine that came to nothing."""
    if isinstance(error, MissingExtraError):
        return Row(backend, precision, "not installed", error.remedy)
    if isinstance(error, DelugeServeError):
        status: Status = "failed" if isinstance(error, Failure) else "refused"
        return Row(backend, precision, status, error.problem)
    return Row(backend, precision, "failed", reason_of(error))


def _run_once(infer: Infer, images: NDArray[np.uint8], sizes: Sequence[int]) -> None:
    """Run every batch that will be timed beside the other engines', where it could lose theirs."""
    for size in sizes:
        infer(fill_batch(images, size))


def _top1_error(infer: Infer, labelled: LabelledImages, batch_size: int) -> float:
    return evaluate(lambda images: infer(images)[0], labelled, batch_size=batch_size).top1_error


def _key(row: Row) -> str:
    return f"{row.backend} {row.precision}"
