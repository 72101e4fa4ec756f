"""From a checkpoint to a published, verified version: read :func:`export` from top to bottom."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import torch

from delugeserve._version import __version__
from delugeserve.artifacts.changes import Changes, compare, describe_manifest, describe_outputs
from delugeserve.artifacts.config_merge import ConfigMerge
from delugeserve.artifacts.config_message import parse
from delugeserve.artifacts.graphs import describe_network
from delugeserve.artifacts.image_models import stage_companions
from delugeserve.artifacts.labels import write_labels
from delugeserve.artifacts.manifest import ARTIFACT, Manifest, artefact_digest, describe_files
from delugeserve.artifacts.members import Member
from delugeserve.artifacts.model_config import InstanceGroup, ModelConfig, classifier_config
from delugeserve.artifacts.preprocessing import preprocessing_of, preprocessing_parameters
from delugeserve.artifacts.publishing import publish, staging
from delugeserve.artifacts.records import FileRecord, SumFormChoice
from delugeserve.artifacts.serving_config import ServingConfig, even_batches
from delugeserve.artifacts.serving_records import record_generated
from delugeserve.artifacts.typed_json import to_json
from delugeserve.networks.inference import fold
from delugeserve.runtimes import BACKENDS
from delugeserve.runtimes.base import Backend
from delugeserve.system import hardware
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve.verification.gate import describe_failure
from delugeserve_export.graph import build_graph
from delugeserve_export.int8 import quantise
from delugeserve_export.plan import ExportPlan, Stage
from delugeserve_export.proof import prove
from delugeserve_export.reference import compute_reference, load_images
from delugeserve_export.source import untrained_source, without_published
from delugeserve_export.speed import measure_speed
from delugeserve_export.tuning import choose_sum_form

_TIMED = 8
"""The largest batch size that is timed: larger ones take as long per image."""


@dataclass(frozen=True)
class ExportOutcome:
    """The result of an export: a published version, or an artefact that failed a check.

    Attributes:
        manifest: what was exported, and what was verified.
        folder: the published version's folder; None if the artefact was rejected.
        seconds: duration of each stage. The manifest has all but the last, in which it is
            published.
        remedy: what to do about a rejection; empty for a published version.
        changes: what changes for clients; None for a new model, and for a rejected artefact.
        config: the new ``config.pbtxt``, and what it keeps of the old one; None for a rejected
            artefact.
        saved_config: where the old ``config.pbtxt`` was saved, because the new one lacks comments
            or fields of it; None if it lacks none.
        image_model: name of the model that takes encoded images; None if there is none.
    """

    manifest: Manifest
    folder: Path | None
    seconds: Mapping[str, float]
    remedy: str = ""
    changes: Changes | None = None
    config: ConfigMerge | None = None
    saved_config: Path | None = None
    image_model: str | None = None

    @property
    def published(self) -> bool:
        """Whether every check passed."""
        return self.folder is not None

    @property
    def problem(self) -> str:
        """The first failed check, in a sentence; empty for a published version."""
        return "" if self.published else describe_failure(self.manifest.verification)


def export(plan: ExportPlan, progress: Progress = NO_PROGRESS) -> ExportOutcome:
    """Load, fold, write the graph, build the artefact, verify it, publish it.

    Args:
        plan: what :func:`delugeserve_export.plan_export` returned.
        progress: receives the stages of :class:`delugeserve_export.plan.Stage`.

    Returns:
        The published version, or the artefact that failed a check. A rejected artefact is not kept.

    Raises:
        UsageError: the data set or the repository cannot be used; see the tree in
            :mod:`delugeserve.errors`.
        BuildError: the runtime cannot build the artefact.
        ParityError: int8 costs more accuracy than is allowed, whatever is quantised.
    """
    clock = _Clock(progress)
    spec, backend, precision = plan.spec, plan.backend, plan.precision
    environment = _describe_environment(backend)

    with clock.stage(Stage.LOAD):
        images = load_images(plan)
        source = plan.source or untrained_source(spec, images.all, seed=plan.seed)

    with clock.stage(Stage.FOLD):
        folded = fold(source.network)
        metadata = describe_network(spec, trained=source.trained)
        write = partial(build_graph, folded, spec.task, metadata=metadata)
        served_type = backend.float_type(precision)

    if plan.sum_form is not None:
        sums = SumFormChoice(plan.sum_form)
    else:
        with clock.stage(Stage.FORMS):
            sums = choose_sum_form(
                backend,
                precision,
                lambda form: write(sum_form=form, float_type=served_type),
                images.all,
                {"network": to_json(without_published(spec)), "environment": environment},
            )

    with clock.stage(Stage.GRAPH):
        graph = write(sum_form=sums.form, float_type=served_type)

    quantisation, unquantised = None, None
    if plan.int8 is not None:
        with clock.stage(Stage.QUANTISE):
            unquantised = write(sum_form=sums.form, float_type="fp32")
            graph, quantisation = quantise(
                unquantised, graph, backend, source, plan.data, plan.int8, progress
            )

    with staging(plan.repository) as workspace:
        version = workspace / "version"
        version.mkdir()
        with clock.stage(Stage.BUILD):
            artefact = backend.build(graph, version, plan.build)

        with clock.stage(Stage.REFERENCE):
            evidence, stored = compute_reference(plan, source, images)
            stored.write(version)
            write_labels(version, source.spec.task.class_names)

        with clock.stage(Stage.VERIFY):
            verification, runs = prove(
                plan, artefact, graph, unquantised, quantisation, source, evidence, workspace
            )

        speed: Mapping[str, Mapping[int, float]] = {}
        if verification.status == "passed":
            with clock.stage(Stage.TIME):
                sizes = sorted({1, min(_TIMED, plan.build.max_batch_size)})
                speed = measure_speed(runs, images.all, sizes)

        files = describe_files(sorted(version.iterdir()))
        config = _configure(plan, artefact, files, speed.get(precision, {}))
        record_generated(version, config)
        manifest = Manifest(
            model=plan.name,
            trained=source.trained,
            checkpoint=source.origin,
            network=without_published(spec),
            backend=backend.name,
            precision=precision,
            sum_form=sums,
            artefact=artefact.name,
            max_batch_size=plan.build.max_batch_size,
            preprocessing=preprocessing_of(spec.task).digest,
            quantisation=quantisation,
            verification=verification,
            export_verification=None,
            evidence=stored.record,
            engine=backend.describe(artefact),
            speed=speed,
            files=describe_files(sorted(version.iterdir())),
            environment=environment,
            seconds=dict(clock.seconds),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        if verification.status == "failed":
            return ExportOutcome(manifest, None, clock.seconds, _suggest(plan))
        with clock.stage(Stage.PUBLISH):
            manifest.write(version)
            companions = _stage_companions(plan, config, workspace) if plan.image_model else []
            done = publish(
                version,
                plan.repository,
                config,
                plan.version,
                fixed_parameters=_parameters_of_precision(),
                replace_classes=plan.replace_classes,
                companions=companions,
            )
    offered = (output.name for output in parse(done.config.text).output)
    facts = describe_manifest(manifest) | {"outputs": describe_outputs(offered)}
    return ExportOutcome(
        manifest,
        done.folder,
        clock.seconds,
        changes=compare(done.before, spec.task.class_names, facts) if done.before else None,
        config=done.config,
        saved_config=done.saved,
        image_model=plan.image_model_name,
    )


class _Clock:
    """Reports the stages, and keeps how long each took."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        self._progress.stage(stage.value)
        start = time.perf_counter()
        yield
        self.seconds[stage.value] = round(time.perf_counter() - start, 3)


def _configure(
    plan: ExportPlan,
    artefact: Path,
    files: Mapping[str, FileRecord],
    speed: Mapping[int, float],
) -> ModelConfig:
    task, largest = plan.spec.task, plan.build.max_batch_size
    preferred: tuple[int, ...] = ()
    if speed and not plan.backend.on_gpu:
        timed = max(speed)
        preferred = even_batches(hardware.usable_cores(), largest, speed[timed] / timed)
    return classifier_config(
        name=plan.name,
        backend=plan.backend.name,
        artefact=artefact.name,
        max_batch_size=largest,
        image_size=task.image_size,
        num_classes=task.num_classes,
        instance_group=InstanceGroup(plan.backend.instance_count, plan.backend.instance_kind),
        runtime=plan.backend.triton_runtime,
        outputs=plan.outputs,
        queue=ServingConfig(preferred_batch_sizes=preferred or None),
        parameters={
            **plan.backend.triton_parameters(plan.precision),
            **preprocessing_parameters(preprocessing_of(task)),
            ARTIFACT: artefact_digest({name: file.sha256 for name, file in files.items()}),
        },
    )


def _stage_companions(plan: ExportPlan, config: ModelConfig, workspace: Path) -> list[Member]:
    home = workspace / "companions"
    home.mkdir()
    task = plan.spec.task
    return stage_companions(config, preprocessing_of(task), task.class_names, home, plan.decoder)


def _parameters_of_precision() -> frozenset[str]:
    """Return the parameters with which backends are told their precision."""
    return frozenset(
        key
        for backend in BACKENDS.values()
        for precision in backend.precisions
        for key in backend.triton_parameters(precision)
    )


def _suggest(plan: ExportPlan) -> str:
    """Return what may pass where this export failed."""
    if plan.precision == "int8":
        return (
            "Nothing was published. Calibrate on images of the network's own classes "
            "(--calibration-data), lower --max-drop, or use another --precision."
        )
    if plan.precision != "fp32":
        return "Nothing was published. Use --precision fp32, or another --backend."
    others = [
        backend.flag
        for backend in BACKENDS.values()
        if backend is not plan.backend and backend.is_installed() and backend.runs_here()
    ]
    instead = f"Use --backend {others[0]}, and report" if others else "Report"
    return f"Nothing was published. {instead} this as a bug."


def _describe_environment(backend: Backend) -> dict[str, str]:
    runtime = __import__(backend.module)
    return {
        "delugeserve": __version__,
        "torch": torch.__version__,
        backend.module: runtime.__version__,
        "python": platform.python_version(),
        "machine": hardware.describe(),
    }
