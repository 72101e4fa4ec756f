"""What a person should know about their data before training: counts, sizes, faults."""

from __future__ import annotations

from dataclasses import dataclass

from delugeserve.data.catalogue import Catalogue
from delugeserve.system.progress import NO_PROGRESS, Progress


@dataclass(frozen=True)
class DataReport:
    """A summary of a source of images; ``cli/render`` prints it."""


def survey(catalogue: Catalogue, *, progress: Progress = NO_PROGRESS) -> DataReport:
    """Count classes, sizes, skipped files and duplicates of a source of images."""
    raise NotImplementedError
