"""The one path from a checkpoint to a published, proven model; read it from top to bottom."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import torch

from delugeserve._version import __version__
from delugeserve.artifacts.interface import FloatType, Precision, SumForm
from delugeserve.artifacts.labels import write_labels
from delugeserve.artifacts.manifest import Manifest, describe_files
from delugeserve.artifacts.model_config import InstanceGroup, classifier_config
from delugeserve.artifacts.publishing import publish, staging
from delugeserve.artifacts.records import SumFormChoice
from delugeserve.artifacts.typed_json import to_json
from delugeserve.errors import MissingDeviceError, PlanError
from delugeserve.networks.classifier import network_classifier
from delugeserve.networks.inference import fold
from delugeserve.runtimes.base import Backend, load_runs
from delugeserve.system import hardware
from delugeserve.verification.evidence import Evidence
from delugeserve.verification.gate import check_precision, examine, not_run, require_passed
from delugeserve_export.graph import build_graph
from delugeserve_export.int8 import quantise
from delugeserve_export.request import Request, settle
from delugeserve_export.samples import sample_images
from delugeserve_export.source import untrained_source, without_published
from delugeserve_export.speed import measure_speed
from delugeserve_export.tuning import choose_sum_form
from delugeserve_export.typed_graph import check_graph

_TIMED = 8
"""The largest batch that is timed: beyond it an image takes as long, and the user waits."""


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
    with progress.stage("load"):
        settled = settle(request)
        spec, backend, precision = settled.spec, settled.backend, settled.precision
        images, verified_on = sample_images(spec.dataset, settled.num_images, settled.data)
        source = settled.source or untrained_source(spec, images, seed=settled.seed)

    with progress.stage("fold"):
        folded = fold(source.network)

    metadata = {"model": spec.name, "trained": str(source.trained).lower()}
    environment = _environment(backend)

    served_type = backend.float_type(precision)

    def write(form: SumForm, float_type: FloatType = served_type) -> bytes:
        return build_graph(
            folded, spec.dataset, sum_form=form, float_type=float_type, metadata=metadata
        )

    if settled.sum_form is not None:
        choice = SumFormChoice(settled.sum_form)
    else:
        with progress.stage("forms"):
            facts = {"network": to_json(without_published(spec)), "environment": environment}
            choice = choose_sum_form(backend, precision, write, images, facts)

    with progress.stage("graph"):
        graph = served = write(choice.form)

    quantisation, quantised = None, None
    if settled.int8 is not None:
        with progress.stage("quantise"):
            graph = served if served_type == "fp32" else write(choice.form, "fp32")
            served, quantisation = quantise(
                graph, served, backend, source, settled.data, settled.int8, progress.on_stage
            )
            quantised = len(quantisation.layers)

    with staging(settled.repository) as workspace:
        staged = workspace / "version"
        staged.mkdir()
        with progress.stage("build"):
            artefact = backend.build(served, staged, settled.options)
            executed = backend.executed_precisions(artefact, precision).get("Convolution")

        with progress.stage("reference"):
            logits = network_classifier(source.network, spec.dataset)(images)
            evidence = Evidence(images, logits, f"{len(images)} {verified_on}")
            evidence.write(staged)
            write_labels(staged, source.class_names)

        with progress.stage("verify"):
            try:
                runs = load_runs(backend, artefact, precision)
                if quantisation is not None:  # what proves the weights is the graph before that
                    runs["fp32"] = backend.load(backend.build(graph, workspace), "fp32")
                verification = examine(
                    runs,
                    evidence,
                    precision=precision,
                    sizes=settled.sizes,
                    trained=source.trained,
                    computed_in=executed,
                    quantised=quantised,
                )
            except (MissingDeviceError, PlanError) as error:
                # Where a plan is refused that was built here a moment ago, building it again would
                # not help: it is for a machine with another GPU or driver.
                in_graph = check_graph(
                    served,
                    workspace,
                    evidence,
                    precision=precision,
                    batch_size=settled.sizes[-1],
                    trained=source.trained,
                )
                in_engine = check_precision(precision, executed or {}, quantised)
                reason = error.problem.removesuffix(".").replace(f"{staged}/", "")
                verification = not_run(evidence, reason, in_engine, in_graph)

        speed: Mapping[str, Mapping[int, float]] = {}
        if verification.status == "passed":
            with progress.stage("time"):
                speed = measure_speed(runs, images, sorted({1, min(_TIMED, settled.sizes[-1])}))

        manifest = Manifest(
            model=spec.name,
            trained=source.trained,
            checkpoint=source.origin,
            network=without_published(spec),
            backend=backend.name,
            precision=precision,
            sum_form=choice,
            artefact=artefact.name,
            max_batch_size=settled.options.max_batch_size,
            quantisation=quantisation,
            verification=verification,
            engine=backend.describe(artefact),
            speed=speed,
            files=describe_files(sorted(staged.iterdir())),
            environment=environment,
            seconds=dict(progress.seconds),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        require_passed(verification, manifest, _remedy(precision))
        with progress.stage("publish"):
            manifest.write(staged)
            folder = publish(
                staged,
                settled.repository,
                classifier_config(
                    name=spec.name,
                    backend=backend.name,
                    artefact=artefact.name,
                    max_batch_size=settled.options.max_batch_size,
                    image_size=spec.dataset.image_size,
                    num_classes=spec.dataset.num_classes,
                    instance_group=InstanceGroup(backend.instance_count, backend.instance_kind),
                    runtime=backend.triton_runtime,
                    parameters={
                        **backend.triton_parameters(precision),
                        "resize_size": str(spec.dataset.resize_size),
                        "interpolation": "bicubic",
                    },
                ),
                settled.version,
            )
    return Export(folder, manifest, settled.reason, progress.seconds)


def _remedy(precision: Precision) -> str:
    if precision == "int8":
        return (
            "Nothing was published; calibrate on images of the network's own kind "
            "(--calibration-data), lower --max-drop, or choose a higher --precision."
        )
    return "Nothing was published; try --precision fp32 or another --backend."


def _environment(backend: Backend) -> dict[str, str]:
    runtime = __import__(backend.module)
    return {
        "delugeserve": __version__,
        "torch": torch.__version__,
        backend.module: runtime.__version__,
        "python": platform.python_version(),
        "machine": hardware.describe(),
    }
