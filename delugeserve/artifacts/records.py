"""The parts of a manifest: where the weights came from, how they were quantised, what was verified.

Each is what one step of an export returns and what stands in ``manifest.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from delugeserve.artifacts.interface import Integers, Precision, SumForm

Status = Literal["passed", "failed", "built, not run"]

CalibrationMethod = Literal["entropy", "minmax", "percentile"]


@dataclass(frozen=True)
class Origin:
    """Where a network's weights come from: a checkpoint, or a seed.

    Attributes:
        file: name of the checkpoint; None for an untrained network.
        sha256: of the checkpoint, in hexadecimal.
        seed: of an untrained network; None for a checkpoint.
        recipe: how it was trained, as the checkpoint's header has it.
        data: what it was trained on, with fingerprints.
        metrics: what was measured on the test split.
    """

    file: str | None = None
    sha256: str | None = None
    seed: int | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SumFormChoice:
    """How weighted sums are written in the graph.

    Attributes:
        form: the form.
        milliseconds: of a batch of eight in each form; empty where the forms were not timed.
    """

    form: SumForm
    milliseconds: Mapping[SumForm, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Loss:
    """What quantising some layers costs.

    Attributes:
        drop: of top-1 accuracy, in percentage points.
        error: root-mean-square logit error, divided by the logits' standard deviation.
    """

    drop: float
    error: float


@dataclass(frozen=True)
class Quantisation:
    """How a network was quantised to int8.

    Attributes:
        method: how thresholds were chosen from the calibration images.
        calibrated_on: number and source of the calibration images.
        representative: the calibration images are of the network's own data set. False for crops
            of photographs.
        activations: integer type of the activations.
        max_drop: the drop of top-1 accuracy that was allowed, in percentage points; None for an
            untrained network.
        judged_on: what the drop was measured on, and with which runtime.
        layers: names of the convolutions in int8.
        kept: names of those in the higher precision, the most sensitive first.
        loss: measured with ``layers`` in int8.
        sensitivity: logit error with one layer alone in int8, by layer; empty if all layers could
            be quantised at once.
    """

    method: CalibrationMethod
    calibrated_on: str
    representative: bool
    activations: Integers
    max_drop: float | None
    judged_on: str
    layers: tuple[str, ...]
    kept: tuple[str, ...]
    loss: Loss
    sensitivity: Mapping[str, float]


@dataclass(frozen=True)
class Flip:
    """An image for which artefact and network predict different classes.

    Attributes:
        image: index among the images compared.
        expected: the network's class index.
        found: the artefact's class index.
        expected_name: the network's class name.
        found_name: the artefact's class name.
        margin: the network's logit of ``expected`` minus that of ``found``: small for a close
            decision, large for a fault.
    """

    image: int
    expected: int
    found: int
    expected_name: str
    found_name: str
    margin: float


@dataclass(frozen=True)
class Comparison:
    """An artefact's logits compared with the network's, at one batch size.

    Attributes:
        precision: what the artefact computed in.
        batch_size: images per call.
        num_images: number of different images.
        max_error: largest absolute difference of a logit.
        worst_image: index of the image with ``max_error``.
        mean_error: mean absolute difference of the logits.
        relative_error: root-mean-square difference, divided by the logits' standard deviation.
        top1_agreement: fraction of images with the same top-1 class.
        top5_agreement: mean fraction of the network's top-5 classes among the artefact's.
        kl_divergence: mean Kullback-Leibler divergence from the network's probabilities, in nats.
        flips: images with another top-1 class, the widest margin first.
        histogram: counts of logit differences in equal bins from ``-max_error`` to ``max_error``.
        allowed_error: largest ``relative_error`` that passes; None if nothing was required.
        required_agreement: least fraction of images with the same top-1 class that passes, where
            flips with a margin up to ``close_margin`` count as the same; None for an untrained
            network.
        close_margin: see ``required_agreement``.
    """

    precision: Precision
    batch_size: int
    num_images: int
    max_error: float
    worst_image: int
    mean_error: float
    relative_error: float
    top1_agreement: float
    top5_agreement: float
    kl_divergence: float
    flips: tuple[Flip, ...]
    histogram: tuple[int, ...]
    allowed_error: float | None = None
    required_agreement: float | None = None
    close_margin: float | None = None


@dataclass(frozen=True)
class Check:
    """One requirement, and whether it holds.

    Attributes:
        name: what is required to hold.
        passed: whether it does.
        found: what was measured.
        required: what was required of it.
        detail: the worst image and its distance; empty if there is nothing to add.
        compared: it is about a :class:`Comparison`, which has the measurement and what was
            required of it.
    """

    name: str
    passed: bool
    found: str
    required: str
    detail: str = ""
    compared: bool = False


@dataclass(frozen=True)
class Verification:
    """The result of verifying an artefact.

    Attributes:
        status: ``built, not run`` if the machine cannot run it.
        images: number and source of the images.
        machine: where it ran.
        checks: every check, in order.
        comparisons: the measurements behind them.
        date: UTC, ISO 8601; empty for the verification by the export, which ended when the
            manifest was ``created``.
    """

    status: Status
    images: str
    machine: str
    checks: tuple[Check, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    date: str = ""

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.passed)


@dataclass(frozen=True)
class EvidenceRecord:
    """What ``evidence.npz`` holds, to verify the version again.

    Attributes:
        probe_images: number of photograph crops, which are always kept.
        data: what the data set's images are, such as ``test images of cifar10``; None if the
            version was verified on photographs only.
        data_images: number of the data set's images whose SHA-256 and logits are kept.
        images_kept: the data set's images are kept too.
    """

    probe_images: int
    data: str | None = None
    data_images: int = 0
    images_kept: bool = False


@dataclass(frozen=True)
class FileRecord:
    """A published file.

    Attributes:
        bytes: its size.
        sha256: in hexadecimal.
    """

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Profile:
    """The shapes of one input that a TensorRT plan accepts.

    Attributes:
        min: the smallest shape.
        opt: the shape it is tuned for.
        max: the largest shape.
    """

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True)
class PlanDetails:
    """Which runtime and GPUs a TensorRT plan is for, and how it was built.

    Attributes:
        runtime: Python module that built it and can load it.
        version: version of that module, and the only one that loads it.
        compute_capabilities: the GPUs it was built for; empty if there is a minimum instead.
        minimum_compute_capability: it runs on every GPU from this one on.
        built_on: name of the GPU it was built on; None if none was needed.
        profile: the accepted shapes by input.
        precisions: number of matrix products by precision.
        precisions_of: ``engine`` if the engine's layers were counted; ``network`` if the builder
            listed none and the graph's were counted, whose types it must keep.
    """

    runtime: str
    version: str
    compute_capabilities: tuple[str, ...]
    minimum_compute_capability: str | None
    built_on: str | None
    profile: Mapping[str, Profile]
    precisions: Mapping[Precision, int]
    precisions_of: Literal["engine", "network"]
