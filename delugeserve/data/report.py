"""What a person should know about their data before training: counts, sizes, faults."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from delugeserve.data.catalogue import Catalogue
from delugeserve.data.duplicates import Duplicates, find_duplicates
from delugeserve.data.encoded import Encoded, EncodedImages
from delugeserve.data.formats import decodable_formats
from delugeserve.data.labels import list_names
from delugeserve.data.readers import Form
from delugeserve.data.skipped import SkippedFiles
from delugeserve.data.splits import Size, SizeRange, SplitName
from delugeserve.system.progress import NO_PROGRESS, Progress

_SAMPLE = 1000  # images whose size is read, in each split
_GROUPS = 8  # row groups that are read for it
_IMBALANCE = 10

Kind = Literal[
    "no training images",
    "one class",
    "leak",
    "two labels",
    "unreadable",
    "similar names",
    "missing classes",
    "imbalance",
    "duplicates",
    "empty classes",
    "skipped",
]
"""Kinds of findings, the most important first."""


@dataclass(frozen=True)
class Finding:
    """Something in the data that may make a network worse, or its error wrong.

    Attributes:
        kind: what it is.
        problem: one sentence.
        remedy: one sentence.
    """

    kind: Kind
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.problem} {self.remedy}"


@dataclass(frozen=True)
class DataReport:
    """A summary of a source of images; ``cli/render/data_report.py`` prints it.

    Attributes:
        source: the path or name that was given.
        form: the layout on disk.
        held_out: the fraction of the training images that serves as validation split, or None.
        class_names: in the order of the labels.
        counts: for each split the number of images of each class.
        empty_classes: classes without an image in any split, which are left out.
        sizes: the smallest and the largest size among ``measured`` images; None if none of them
            can be read.
        measured: number of images whose sizes were read.
        skipped: for each split, the files that were not listed because they are not images.
        unreadable: names of the images, among the measured ones, whose size cannot be read.
        duplicates: identical images; None if they were not looked for.
        findings: what should be looked at, the most important first.
    """

    source: str
    form: Form
    held_out: float | None
    class_names: tuple[str, ...]
    counts: Mapping[SplitName, tuple[int, ...]]
    empty_classes: tuple[str, ...]
    sizes: SizeRange | None
    measured: int
    skipped: Mapping[SplitName, SkippedFiles]
    unreadable: tuple[str, ...]
    duplicates: Duplicates | None
    findings: tuple[Finding, ...] = ()

    @property
    def images(self) -> int:
        """Number of images in all splits."""
        return sum(map(sum, self.counts.values()))

    @property
    def imbalance(self) -> float:
        """Number of training images of the largest class divided by that of the smallest."""
        counts = self.counts.get("train", ())
        return max(counts, default=0) / max(1, min(counts, default=0))


def survey(
    catalogue: Catalogue, *, duplicates: bool = True, progress: Progress = NO_PROGRESS
) -> DataReport:
    """Count classes, sizes, skipped files and duplicates of a source of images.

    Args:
        catalogue: the source.
        duplicates: compare the contents of the images.
        progress: receives the number of images compared.

    Raises:
        DatasetError: a file that holds images is damaged.
    """
    sizes: list[Size] = []
    unreadable: list[str] = []
    measured = 0
    for split in catalogue.splits:
        images = catalogue.images[split]
        for index in _sample(images):
            measured += 1
            size = _read_size(images[index])
            if size is None:
                unreadable.append(images.name(index))
            else:
                sizes.append(size)
    in_order = {split: catalogue.images[split] for split in catalogue.splits}
    report = DataReport(
        catalogue.source,
        catalogue.form,
        catalogue.held_out,
        catalogue.class_names,
        {split: tuple(catalogue.counts(split).tolist()) for split in catalogue.splits},
        catalogue.empty_classes,
        SizeRange.of(sizes),
        measured,
        {
            split: images.skipped
            for split, images in in_order.items()
            # What is held out was listed with the training images.
            if split != "validation" or catalogue.held_out is None
        },
        tuple(unreadable),
        find_duplicates(in_order, progress=progress) if duplicates else None,
    )
    order = get_args(Kind)
    findings = sorted(_find_faults(report), key=lambda finding: order.index(finding.kind))
    return dataclasses.replace(report, findings=tuple(findings))


def _find_faults(report: DataReport) -> Iterator[Finding]:
    """Yield what should be looked at."""
    yield from _splits_and_classes(report)
    yield from _repeated(report)
    if report.unreadable:
        yield Finding(
            "unreadable",
            f"{_images(len(report.unreadable))} of {report.measured:,} cannot be read:"
            f" {list_names(report.unreadable)}.",
            "Remove or replace unreadable images, or leave them out with --on-unreadable skip.",
        )
    for split, skipped in report.skipped.items():
        if set(skipped.kinds) - {"hidden"}:
            yield Finding(
                "skipped",
                f"Skipped in {split}: {skipped}.",
                "Convert or move those that should be used.",
            )


def _splits_and_classes(report: DataReport) -> Iterator[Finding]:
    names = report.class_names
    if "train" not in report.counts:
        yield Finding(
            "no training images",
            f"{report.source} has no training split.",
            "It can be evaluated on; to train, add a train split.",
        )
    if len(names) == 1:
        yield Finding(
            "one class",
            f"There is only one class, '{names[0]}'.",
            "A classifier needs two or more: put the images of each class into a folder of its"
            " own.",
        )
    folded: dict[str, list[str]] = {}
    for name in names:
        folded.setdefault(name.casefold(), []).append(name)
    alike = [name for group in folded.values() if len(group) > 1 for name in group]
    if alike:
        yield Finding(
            "similar names",
            f"Class names differ only in case: {list_names(alike)}.",
            "If they mean the same class, merge them.",
        )
    if report.empty_classes:
        yield Finding(
            "empty classes",
            f"Classes without images are left out: {list_names(report.empty_classes)}.",
            "Add images, or remove the folders.",
        )
    for split, counts in report.counts.items():
        absent = [name for name, count in zip(names, counts, strict=True) if not count]
        if absent:
            yield Finding(
                "missing classes",
                f"The {split} split has no images of {list_names(absent)}.",
                "Their error cannot be measured there; add images.",
            )
    if report.imbalance > _IMBALANCE:
        trained = report.counts["train"]
        most, least = trained.index(max(trained)), trained.index(min(trained))
        yield Finding(
            "imbalance",
            f"The largest class has {report.imbalance:.0f} times as many training images as the"
            f" smallest ('{names[most]}' {trained[most]:,}, '{names[least]}' {trained[least]:,}).",
            "Use --class-weights balanced to give small classes the same weight in the loss.",
        )


def _repeated(report: DataReport) -> Iterator[Finding]:
    found = report.duplicates
    if found is None:
        return
    for copies in found.across:
        first, second = copies.splits
        yield Finding(
            "leak",
            f"The {second} split shares {_images(copies.images)} with the {first} split, such as"
            f" {' and '.join(copies.example)}.",
            "Remove the copies; errors come out too low otherwise.",
        )
    if found.example is not None:
        cases = "1 case" if found.relabelled == 1 else f"{found.relabelled:,} cases"
        yield Finding(
            "two labels",
            f"The same image has two labels in {cases}, such as {' and '.join(found.example)}.",
            "Remove the wrong copies.",
        )
    for copies in found.within:
        yield Finding(
            "duplicates",
            f"The {copies.splits[0]} split has {_images(copies.images, 'repeated ')}, such as"
            f" {' and '.join(copies.example)}.",
            "Remove the copies if they are not meant to count twice.",
        )


def _images(count: int, kind: str = "") -> str:
    return f"1 {kind}image" if count == 1 else f"{count:,} {kind}images"


def _sample(images: EncodedImages) -> NDArray[np.int64]:
    """Choose images to measure: spread evenly, or of a few row groups that are read at once."""
    starts = images.starts
    if len(starts) == len(images):
        count = min(_SAMPLE, len(images))
        return np.linspace(0, len(images) - 1, count).round().astype(np.int64)
    groups = np.unique(np.linspace(0, len(starts) - 1, _GROUPS).round().astype(np.int64))
    each = _SAMPLE // len(groups)
    ends = np.append(starts[1:], len(images))
    return np.concatenate(
        [np.arange(starts[group], min(ends[group], starts[group] + each)) for group in groups]
    )


def _read_size(image: Encoded) -> Size | None:
    """Return the width and the height of an image; None if it cannot be opened."""
    if not isinstance(image, (bytes, Path)):
        return (image.shape[1], image.shape[0])
    try:
        file = io.BytesIO(image) if isinstance(image, bytes) else image
        with Image.open(file, formats=decodable_formats()) as opened:
            return opened.size
    except Exception:  # for damaged images Pillow raises nearly anything
        return None
