"""What is to be exported, and what that comes to: every mistake in it is found before any work."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from delugeserve.artifacts.interface import Precision, SumForm
from delugeserve.artifacts.publishing import free_version
from delugeserve.data.datasets import check_source
from delugeserve.errors import RepositoryError, UnknownNameError, UsageError
from delugeserve.networks.flops import count
from delugeserve.runtimes import choose_backend
from delugeserve.runtimes.base import Backend, BuildOptions
from delugeserve.verification.gate import batch_sizes
from delugeserve.zoo import ModelSpec
from delugeserve_export.int8 import Int8Options
from delugeserve_export.samples import default_source
from delugeserve_export.source import Source, load_source
from delugeserve_export.tuning import FORMS

_REFERENCE_FLOPS = 250e9
"""Work spent on the network's own answers: a few seconds of two cores, whatever the model."""

_FEWEST_IMAGES, _MOST_IMAGES = 8, 256


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
        version: number of the version; None takes the next.
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
    version: int | None = None


@dataclass(frozen=True)
class Settled:
    """What a request comes to on this machine.

    Attributes:
        spec: the model.
        source: its trained network; None for an untrained one.
        repository: the model repository.
        version: number of the version; None takes the next.
        backend: what runs it.
        reason: why that one, in a sentence.
        precision: what it will compute in.
        sum_form: how weighted sums are written; None if that is measured.
        options: how the artefact is built.
        int8: how to quantise; None in another precision.
        sizes: the batch sizes it is verified at; the last is the largest allowed.
        data: a data set to verify on; None for crops of photographs.
        num_images: the most images to verify on.
        seed: of an untrained network.
    """

    spec: ModelSpec
    source: Source | None
    repository: Path
    version: int | None
    backend: Backend
    reason: str
    precision: Precision
    sum_form: SumForm | None
    options: BuildOptions
    int8: Int8Options | None
    sizes: tuple[int, ...]
    data: str | None
    num_images: int
    seed: int

    @property
    def stages(self) -> tuple[str, ...]:
        """What will be done, in order; a plan without a GPU is not timed."""
        return tuple(
            stage
            for stage, wanted in {
                "load": True,
                "fold": True,
                "forms": self.sum_form is None,
                "graph": True,
                "quantise": self.int8 is not None,
                "build": True,
                "reference": True,
                "verify": True,
                "time": self.backend.runs_here(),
                "publish": True,
            }.items()
            if wanted
        )

    @property
    def folder(self) -> Path:
        """Where it will be published, if nobody else does so first."""
        model = self.repository / self.spec.name
        return model / str(free_version(model, self.version))


def settle(request: Request) -> Settled:
    """Find out what a request comes to.

    Raises:
        UsageError: it cannot be met; see the tree in :mod:`delugeserve.errors`.
    """
    backend, reason = choose_backend(request.backend, request.precision)
    precision = _choose_precision(request.precision, backend)
    sum_form = _find_sum_form(request.sum_form)
    if sum_form is None and (backend.typed_graph or precision == "int8"):
        # A plan takes long to build, and may not run here; int8 is not what would be timed.
        sum_form = backend.sum_form
    if sum_form == "horner" and backend.float_type(precision) == "fp16":
        raise UsageError(
            f"In {precision} {backend.title} computes sums in fp16, in which Horner's scheme "
            "overflows.",
            "Say --sum-form mul.",
        )
    if request.max_batch_size < 1:
        raise UsageError("The maximum batch size is at least 1.", "Say --max-batch-size 64.")
    _check_int8(request.int8, precision)
    options = dataclasses.replace(request.options, max_batch_size=request.max_batch_size)
    backend.check_options(options)
    if request.repository.exists() and not request.repository.is_dir():
        raise RepositoryError(
            f"{request.repository} is a file, not a model repository.",
            "Choose another --repository.",
        )
    source = load_source(request.model, request.checkpoint)
    spec = source.spec if source else request.model
    if spec is None:
        raise UsageError("There is nothing to export.", "Say --model or --checkpoint.")
    free_version(request.repository / spec.name, request.version)
    data = request.data or default_source(spec.dataset, source.class_names if source else None)
    if data is not None:
        check_source(data, "test", spec.dataset)
    calibration_data = request.int8.calibration_data or data
    if precision == "int8" and calibration_data is not None:
        check_source(calibration_data, "train", spec.dataset)
    affordable = int(_REFERENCE_FLOPS / count(spec).flops)
    return Settled(
        spec=spec,
        source=source,
        repository=request.repository,
        version=request.version,
        backend=backend,
        reason=reason,
        precision=precision,
        sum_form=sum_form,
        options=options,
        int8=request.int8 if precision == "int8" else None,
        sizes=tuple(batch_sizes(options.max_batch_size, options.optimal_batch_size)),
        data=data,
        num_images=min(max(affordable, _FEWEST_IMAGES), _MOST_IMAGES),
        seed=request.seed,
    )


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
