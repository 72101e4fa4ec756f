"""What an export will do: every option is parsed and checked here, before any work."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import get_args

from delugeserve.artifacts.changes import (
    Changes,
    ServedVersion,
    check_classes,
    compare,
    describe_error,
    describe_outputs,
    describe_task,
    find_served,
)
from delugeserve.artifacts.checkpoints import read_header
from delugeserve.artifacts.companions import check_names, companion_names
from delugeserve.artifacts.image_models import Decoder
from delugeserve.artifacts.interface import LOGITS, PROBABILITIES, Precision, SumForm
from delugeserve.artifacts.publishing import check_target, free_version
from delugeserve.artifacts.references import recognise, resolve_checkpoint
from delugeserve.data.datasets import check_source
from delugeserve.errors import UnknownNameError, UsageError
from delugeserve.networks.flops import count
from delugeserve.runtimes import choose_backend
from delugeserve.runtimes.base import Backend, BuildOptions
from delugeserve.verification.gate import batch_sizes
from delugeserve.zoo import MODELS, ModelSpec, find_model
from delugeserve_export.int8 import Int8Options
from delugeserve_export.samples import default_source
from delugeserve_export.source import Source, load_source, require_delugenet
from delugeserve_export.tuning import FORMS

_REFERENCE_FLOPS = 250e9
"""Work for the network's own logits: a few seconds of two cores, whatever the model."""

_FEWEST_IMAGES, _MOST_IMAGES = 8, 256


class Stage(str, Enum):
    """The stages of an export, in order."""

    LOAD = "load"
    FOLD = "fold"
    FORMS = "forms"
    GRAPH = "graph"
    QUANTISE = "quantise"
    BUILD = "build"
    REFERENCE = "reference"
    VERIFY = "verify"
    TIME = "time"
    PUBLISH = "publish"


@dataclass(frozen=True)
class ExportPlan:
    """An export, checked and ready to run. Made by :func:`plan_export`.

    Attributes:
        spec: the model.
        source: its trained network; None for an untrained one.
        seed: of an untrained network.
        repository: the model repository to publish into.
        name: name of the model in the repository.
        version: number of the version; None for the next.
        replace_classes: publish over a model with other classes.
        served: what is served under this name now; None for a new model.
        backend: the runtime to export for.
        reason: why this backend, in a sentence.
        precision: what it will compute in.
        sum_form: how weighted sums are written; None to time each form and take the fastest.
        build: how the artefact is built.
        int8: how to quantise; None in another precision.
        batch_sizes: the batch sizes to verify at; the last is the largest allowed.
        data: the data set to verify on; None for crops of photographs.
        num_images: most images to verify on.
        keep_evidence: keep the images of ``data`` in the version.
        outputs: the outputs that clients of a server can ask for.
        image_model: publish the models that take encoded images, too.
        decoder: what decodes encoded images on the server.
    """

    spec: ModelSpec
    source: Source | None
    seed: int
    repository: Path
    name: str
    version: int | None
    replace_classes: bool
    served: ServedVersion | None
    backend: Backend
    reason: str
    precision: Precision
    sum_form: SumForm | None
    build: BuildOptions
    int8: Int8Options | None
    batch_sizes: tuple[int, ...]
    data: str | None
    num_images: int
    keep_evidence: bool
    outputs: tuple[str, ...] = (PROBABILITIES,)
    image_model: bool = True
    decoder: Decoder = "python"

    @property
    def image_model_name(self) -> str | None:
        """Name of the model that takes encoded images; None if there will be none."""
        return companion_names(self.name)[1] if self.image_model else None

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages to run, in order. An artefact that cannot run here is not timed."""
        left_out = {
            Stage.FORMS: self.sum_form is not None,
            Stage.QUANTISE: self.int8 is None,
            Stage.TIME: not self.backend.runs_here(),
        }
        return tuple(stage for stage in Stage if not left_out.get(stage))

    @property
    def folder(self) -> Path:
        """Where the version will be published, unless another export takes the number first."""
        model = self.repository / self.name
        return model / str(free_version(model, self.version))

    @property
    def changes(self) -> Changes | None:
        """What changes for clients, as far as it is known before the work; None for a new model."""
        if self.served is None:
            return None
        facts = {
            **describe_task(self.spec.task),
            "backend": self.backend.name,
            "precision": self.precision,
            "max_batch_size": self.build.max_batch_size,
            "trained": self.source is not None,
            "outputs": describe_outputs(self.outputs),
            "architecture": self.spec.architecture.name,
            **describe_error(self.source.origin.metrics if self.source else {}),
        }
        return compare(self.served, self.spec.task.class_names, facts)


def plan_export(
    model: ModelSpec | str | None = None,
    checkpoint: Path | str | None = None,
    *,
    repository: Path | str = "model_repository",
    name: str | None = None,
    version: int | None = None,
    replace_classes: bool = False,
    backend: str = "auto",
    precision: str = "auto",
    max_batch_size: int = 64,
    optimal_batch_size: int | None = None,
    sum_form: str = "auto",
    data: str | None = None,
    keep_evidence: bool = False,
    seed: int = 0,
    int8: Int8Options | None = None,
    outputs: Sequence[str] = (PROBABILITIES,),
    image_model: bool = True,
    decoder: str = "python",
) -> ExportPlan:
    """Check the options of an export and work out what it will do on this machine.

    Args:
        model: a model, its name, or a checkpoint; None for the checkpoint's model.
        checkpoint: a ``.safetensors`` file, or a run folder that holds one. None takes the weights
            that ship with the model, or else an untrained network.
        repository: the Triton model repository to publish into.
        name: name of the model in the repository; None for the network's own.
        version: number of the version; None for the next.
        replace_classes: publish over a model with other classes.
        backend: name of a backend, or ``auto`` for the best one on this machine.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``, or ``auto`` for the fastest that is
            native here and not int8.
        max_batch_size: most images in one batch.
        optimal_batch_size: batch size that TensorRT tunes for; None for the smaller of 16 and
            ``max_batch_size``.
        sum_form: how weighted sums are written, or ``auto`` for the fastest here.
        data: a data set whose test split the artefact is verified on. None takes the one in
            ``DELUGESERVE_DATA`` for CIFAR-10, or else crops of photographs.
        keep_evidence: keep the test images in the version, not just their SHA-256.
        seed: of an untrained network.
        int8: how to quantise, if the precision is ``int8``; None for the defaults.
        outputs: the outputs that clients of a server can ask for: ``probabilities``, with or
            without ``logits``. Triton's own image clients refuse a model that has both. A plan of
            TensorRT always has both, since Triton's backend for it insists on that.
        image_model: publish the models that take encoded images, too; see
            :mod:`delugeserve.artifacts.image_models`.
        decoder: what decodes encoded images on the server: ``python`` (Pillow), or ``dali`` for a
            server with NVIDIA GPUs and Triton's DALI backend.

    Returns:
        The plan; nothing has been written.

    Raises:
        UsageError: an option is wrong, or the export cannot be done here; see the tree in
            :mod:`delugeserve.errors`.
    """
    chosen_backend, reason = choose_backend(backend, precision)
    chosen_precision = _choose_precision(precision, chosen_backend)
    build = BuildOptions(max_batch_size, optimal_batch_size)
    repository = Path(repository)
    _check_build(build, chosen_backend)
    if keep_evidence and data is None:
        raise UsageError(
            "--keep-evidence keeps the test images of --data, which is not given.",
            "Give --data, or leave --keep-evidence out.",
        )
    spec, source = _find_source(model, checkpoint)
    name = spec.name if name is None else name
    check_target(repository, name)
    check_names(repository, name, companions=image_model)
    free_version(repository / name, version)
    served = find_served(repository / name)
    if not replace_classes:
        check_classes(served, spec.task.class_names)
    data = data or default_source(spec.task)
    if data is not None:
        check_source(data, "test", spec.task)
    affordable = int(_REFERENCE_FLOPS / count(spec).flops)
    return ExportPlan(
        spec=spec,
        source=source,
        seed=seed,
        repository=repository,
        name=name,
        version=version,
        replace_classes=replace_classes,
        served=served,
        backend=chosen_backend,
        reason=reason,
        precision=chosen_precision,
        sum_form=_choose_sum_form(sum_form, chosen_backend, chosen_precision),
        build=build,
        int8=_choose_int8(int8, chosen_precision, spec, data),
        batch_sizes=tuple(batch_sizes(max_batch_size, build.optimal_batch_size)),
        data=data,
        num_images=min(max(affordable, _FEWEST_IMAGES), _MOST_IMAGES),
        keep_evidence=keep_evidence,
        outputs=_choose_outputs(outputs, chosen_backend),
        image_model=image_model,
        decoder=_choose_decoder(decoder),
    )


def _choose_outputs(names: Sequence[str], backend: Backend) -> tuple[str, ...]:
    known = (LOGITS, PROBABILITIES)
    for name in names:
        if name not in known:
            raise UnknownNameError("output", name, known)
    if PROBABILITIES not in names:
        raise UsageError(
            "--outputs leaves probabilities out, from which clients get the predictions.",
            "Use --outputs logits,probabilities.",
        )
    return tuple(name for name in known if name in names or backend.offers_all_outputs)


def _choose_decoder(name: str) -> Decoder:
    known: tuple[Decoder, ...] = get_args(Decoder)
    for one in known:
        if name == one:
            return one
    raise UnknownNameError("decoder", name, known)


def _find_source(
    model: ModelSpec | str | None, checkpoint: Path | str | None
) -> tuple[ModelSpec, Source | None]:
    """Return the model, and its trained network if there are weights."""
    if model is None and checkpoint is None:
        raise UsageError("No model is given.", "Use --model or --checkpoint.")
    if isinstance(model, str) and model not in MODELS and checkpoint is None:
        found = recognise(model, {"weights", "checkpoint"})
        model, checkpoint = None, found.value
    if checkpoint is not None:
        checkpoint = resolve_checkpoint(checkpoint)
        own = read_header(checkpoint).spec.name
        if isinstance(model, str) and model not in MODELS:
            if model != own:
                raise UnknownNameError("model", model, [*MODELS, own])
            model = None  # the checkpoint's own name
    spec = find_model(model) if isinstance(model, str) else model
    source = load_source(spec, checkpoint)
    if source is not None:
        return source.spec, source
    assert spec is not None  # without a model there is a checkpoint
    require_delugenet(spec)
    return spec, None


def _choose_precision(precision: str, backend: Backend) -> Precision:
    if precision == "auto":
        return backend.best_precision()
    for known in backend.precisions:
        if precision == known:
            return known
    raise UnknownNameError(
        f"precision of {backend.title}", precision, [*backend.precisions, "auto"]
    )


def _choose_sum_form(name: str, backend: Backend, precision: Precision) -> SumForm | None:
    """Return the form; None if the forms are to be timed."""
    if name == "auto":
        # A plan takes long to build and may not run here; with int8 the timing would be of fp32.
        return backend.sum_form if backend.typed_graph or precision == "int8" else None
    for known in FORMS:
        if name == known:
            break
    else:
        raise UnknownNameError("form of weighted sums", name, [*FORMS, "auto"])
    if known == "horner" and backend.float_type(precision) == "fp16":
        raise UsageError(
            f"In {precision} {backend.title} computes sums in fp16, in which --sum-form horner "
            "overflows.",
            "Use --sum-form mul.",
        )
    return known


def _check_build(build: BuildOptions, backend: Backend) -> None:
    if build.max_batch_size < 1:
        raise UsageError(
            f"--max-batch-size is {build.max_batch_size}, but a batch has at least 1 image.",
            "Use --max-batch-size 64.",
        )
    backend.check_options(build)


def _choose_int8(
    options: Int8Options | None, precision: Precision, spec: ModelSpec, data: str | None
) -> Int8Options | None:
    if precision != "int8":
        if options is not None:
            raise UsageError(
                "--calibration-data, --calibration-images, --calibration-method and --max-drop are "
                f"options of int8, but the precision is {precision}.",
                "Use --precision int8, or leave them out.",
            )
        return None
    options = options or Int8Options()
    options.check()
    calibration_data = options.calibration_data or data
    if calibration_data is not None:
        check_source(calibration_data, "train", spec.task)
    return dataclasses.replace(options, calibration_data=calibration_data)
