"""The one path from a checkpoint to a published, proven model; read it from top to bottom."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from delugeserve import __version__, hardware
from delugeserve.errors import (
    MissingDeviceError,
    RepositoryError,
    UnknownNameError,
    UsageError,
)
from delugeserve.evaluation import network_classifier
from delugeserve.networks.flops import count
from delugeserve.networks.inference import fold
from delugeserve.zoo import ModelSpec
from delugeserve_export.engines import choose_backend
from delugeserve_export.engines.base import Backend, BuildOptions, load_runs
from delugeserve_export.evidence import Evidence
from delugeserve_export.gate import (
    batch_sizes,
    check_precision,
    examine,
    not_run,
    require_passed,
)
from delugeserve_export.graph import build_graph
from delugeserve_export.int8 import Int8Options, quantise
from delugeserve_export.interface import Precision, SumForm
from delugeserve_export.manifest import Manifest, describe_files
from delugeserve_export.samples import default_source, sample_images
from delugeserve_export.source import describe_network, load_source, untrained_source
from delugeserve_export.speed import measure_speed
from delugeserve_export.triton_repository import publish, staging
from delugeserve_export.tuning import FORMS, choose_sum_form
from delugeserve_export.typed_graph import check_graph

_REFERENCE_FLOPS = 250e9
"""Work spent on the network's own answers: a few seconds of two cores, whatever the model."""

_FEWEST_IMAGES, _MOST_IMAGES = 8, 256

_TIMED = 8
"""The largest batch that is timed: beyond it an image takes as long, and the user waits."""


@dataclass(frozen=True)
class Request:
    """What is to be exported.

    Attributes:
        model: the model; None takes the checkpoint's.
        checkpoint: its weights; None takes the shipped ones, or else an untrained network.
        repository: the Triton model repository to publish into.
        backend: name of the backend, or ``auto``.
        precision: one the backend knows, or ``auto`` for the fastest that is native
            here and is not int8.
        max_batch_size: the most images of one batch.
        sum_form: how weighted sums are written, or ``auto`` for what is fastest here.
        data: a data set with a test split to verify on; None takes crops of photographs.
        seed: of an untrained network.
        options: how the artefact is built; the largest batch is ``max_batch_size``.
        int8: how to quantise, if that is the precision.
    """

    model: ModelSpec | None
    checkpoint: Path | None = None
    repository: Path = Path("model_repository")
    backend: str = "auto"
    precision: str = "auto"
    max_batch_size: int = 64
    sum_form: str = "auto"
    data: str | None = None
    seed: int = 0
    options: BuildOptions = field(default_factory=BuildOptions)
    int8: Int8Options = field(default_factory=Int8Options)


@dataclass
class Progress:
    """Tells what is being done, and keeps how long it took."""

    on_stage: Callable[[str], None] = lambda _: None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        self.on_stage(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


@dataclass(frozen=True)
class Export:
    """A published export.

    Attributes:
        folder: the version's folder in the repository.
        manifest: what was published.
        reason: why this backend was taken.
        seconds: duration of each stage; the manifest lacks the last, in which it is published.
    """

    folder: Path
    manifest: Manifest
    reason: str
    seconds: Mapping[str, float]


def export(request: Request, progress: Progress | None = None) -> Export:
    """Export a model: load, fold, write the graph, build the artefact, prove it, publish it.

    Raises:
        UsageError: the request cannot be met; see the tree in :mod:`delugeserve.errors`.
        ParityError: the artefact does not compute what the network computes; nothing is published.
    """
    progress = progress or Progress()
    backend, reason = choose_backend(request.backend)
    precision = _choose_precision(request.precision, backend)
    sum_form = _find_sum_form(request.sum_form)
    if request.max_batch_size < 1:
        raise UsageError("The maximum batch size is at least 1.", "Say --max-batch-size 64.")
    _check_int8(request.int8, precision)
    options = dataclasses.replace(request.options, max_batch_size=request.max_batch_size)
    backend.check_options(options)
    _check_model_folder(request.repository)

    with progress.stage("load"):
        source = load_source(request.model, request.checkpoint)
        spec = source.spec if source else request.model
        if spec is None:
            raise UsageError("There is nothing to export.", "Say --model or --checkpoint.")
        images, verified_on = _verification_images(spec, request)
        source = source or untrained_source(spec, images, seed=request.seed)

    with progress.stage("fold"):
        folded = fold(source.network)

    metadata = {"model": spec.name, "trained": str(source.trained).lower()}
    environment = _environment(backend)

    def write(form: SumForm) -> bytes:
        float_type = backend.float_type(precision)
        return build_graph(
            folded, spec.dataset, sum_form=form, float_type=float_type, metadata=metadata
        )

    form_figures: dict[str, float] = {}
    if sum_form is None and backend.typed_graph:
        sum_form = backend.sum_form  # a plan takes long to build, and may not run here
    if sum_form is None and precision == "int8":
        sum_form = backend.sum_form  # the forms are timed before anything is quantised
    if sum_form is None:
        with progress.stage("forms"):
            facts = {"network": describe_network(spec), "environment": environment}
            sum_form, form_figures = choose_sum_form(backend, precision, write, images, facts)

    with progress.stage("graph"):
        graph = write(sum_form)

    served, quantisation = graph, None
    if precision == "int8":
        with progress.stage("quantise"):
            served, quantisation = quantise(
                graph, backend, source, request.data, request.int8, progress.on_stage
            )

    with staging(request.repository) as workspace:
        staged = workspace / "version"
        staged.mkdir()
        with progress.stage("build"):
            artefact = backend.build(served, staged, options)
            executed = backend.executed_precisions(artefact, precision).get("Convolution")

        with progress.stage("reference"):
            logits = network_classifier(source.network, spec.dataset)(images)
            evidence = Evidence(images, logits, f"{len(images)} {verified_on}")
            evidence.write(staged)

        sizes = batch_sizes(request.max_batch_size)
        with progress.stage("verify"):
            try:
                runs = load_runs(backend, artefact, precision)
                if quantisation is not None:  # what proves the weights is the graph before that
                    runs["fp32"] = backend.load(backend.build(graph, workspace), "fp32")
                verification = examine(
                    runs,
                    evidence,
                    precision=precision,
                    sizes=sizes,
                    trained=source.trained,
                    computed_in=executed,
                )
            except MissingDeviceError as error:
                in_graph = check_graph(
                    served,
                    workspace,
                    evidence,
                    precision=precision,
                    batch_size=sizes[-1],
                    trained=source.trained,
                )
                in_engine = check_precision(precision, executed or {})
                verification = not_run(
                    evidence, error.problem.removesuffix("."), in_engine, in_graph
                )

        speed: Mapping[str, Mapping[str, float]] = {}
        if verification.status == "passed":
            with progress.stage("time"):
                speed = measure_speed(runs, images, sorted({1, min(_TIMED, sizes[-1])}))

        manifest = Manifest(
            model=spec.name,
            trained=source.trained,
            checkpoint=source.provenance,
            network=describe_network(spec),
            backend=backend.name,
            precision=precision,
            sum_form={"form": sum_form, "milliseconds": form_figures},
            artefact=artefact.name,
            max_batch_size=request.max_batch_size,
            quantisation=quantisation,
            verification=dataclasses.asdict(verification),
            engine=backend.describe(artefact),
            speed=speed,
            files=describe_files(sorted(staged.iterdir())),
            environment=environment,
            seconds=dict(progress.seconds),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        require_passed(
            verification,
            manifest,
            "Nothing was published; try --precision fp32 or another --backend.",
        )
        with progress.stage("publish"):
            manifest.write(staged)
            folder = publish(
                staged,
                request.repository,
                spec.name,
                labels=source.class_names,
                backend=backend.name,
                instance_kind=backend.instance_kind,
                artefact=artefact.name,
                max_batch_size=request.max_batch_size,
                image_size=spec.dataset.image_size,
                num_classes=spec.dataset.num_classes,
                parameters={
                    **backend.triton_parameters(precision),
                    "resize_size": str(spec.dataset.resize_size),
                    "interpolation": "bicubic",
                },
            )
    return Export(folder, manifest, reason, progress.seconds)


def _verification_images(spec: ModelSpec, request: Request) -> tuple[NDArray[np.uint8], str]:
    affordable = int(_REFERENCE_FLOPS / count(spec).flops)
    number = min(max(affordable, _FEWEST_IMAGES), _MOST_IMAGES)
    return sample_images(spec.dataset, number, request.data or default_source(spec.dataset))


def _choose_precision(precision: str, backend: Backend) -> Precision:
    if precision == "auto":
        return backend.best_precision()
    for known in backend.precisions:
        if precision == known:
            return known
    raise UnknownNameError(
        f"precision of {backend.title}", precision, [*backend.precisions, "auto"]
    )


def _find_sum_form(name: str) -> SumForm | None:
    """A form by name; None for ``auto``."""
    if name == "auto":
        return None
    for known in FORMS:
        if name == known:
            return known
    raise UnknownNameError("form of weighted sums", name, [*FORMS, "auto"])


def _check_int8(options: Int8Options, precision: Precision) -> None:
    if precision == "int8":
        options.check()
    elif options != Int8Options():
        raise UsageError(
            f"Calibration and the drop allowed are of int8, and this export is in {precision}.",
            "Say --precision int8.",
        )


def _check_model_folder(repository: Path) -> None:
    if repository.exists() and not repository.is_dir():
        raise RepositoryError(
            f"{repository} is a file, not a model repository.", "Choose another --repository."
        )


def _environment(backend: Backend) -> dict[str, str]:
    runtime = __import__(backend.module)
    return {
        "delugeserve": __version__,
        "torch": torch.__version__,
        backend.module: runtime.__version__,
        "python": platform.python_version(),
        "machine": hardware.describe(),
    }
