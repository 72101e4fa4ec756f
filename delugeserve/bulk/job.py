"""Label images and pass on the rows, counted."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from delugeserve.bulk.interrupts import interrupts_held
from delugeserve.bulk.items import Item
from delugeserve.bulk.labelling import Labeller
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve_client import Classification

_PROGRESS_S = 0.1


@dataclass
class Counts:
    """What became of the images: in = answered + refused.

    Attributes:
        answered: images that the model labelled.
        refused: images that could not be read.
        below: answered images whose classes are all below the threshold.
        resumed: images among them that an earlier run had labelled or refused.
        seconds: how long this run took.
    """

    answered: int = 0
    refused: int = 0
    below: int = 0
    resumed: int = 0
    seconds: float = 0.0

    @property
    def images(self) -> int:
        """All images."""
        return self.answered + self.refused

    @property
    def rate(self) -> float:
        """Images per second of this run."""
        return (self.images - self.resumed) / self.seconds if self.seconds else 0.0

    def add(self, row: Classification) -> None:
        """Count a row."""
        if row.error is not None:
            self.refused += 1
        else:
            self.answered += 1
            self.below += not row.predictions


def label(
    items: Iterable[Item],
    labeller: Labeller,
    write: Callable[[Classification], None],
    counts: Counts,
    *,
    top_k: int,
    threshold: float | None = None,
    leave_out: int = 0,
    progress: Progress = NO_PROGRESS,
) -> None:
    """Label images, and pass on each row.

    Args:
        items: the images.
        labeller: labels them.
        write: takes the rows, in order.
        counts: is kept up to date, also if an error ends the run.
        top_k: the most classes of a row.
        threshold: the least probability of a class in a row; None for no limit.
        leave_out: number of rows at the start that are not passed on, nor counted.
        progress: is told of the rows.

    Raises:
        ClientError: the server stopped answering.
    """
    started = shown = time.monotonic()
    unreported = 0
    try:
        for row in islice(labeller.label(items, top_k), leave_out, None):
            kept = _above(row, threshold)
            with interrupts_held():
                write(kept)
                counts.add(kept)
            unreported += 1
            now = time.monotonic()
            if now - shown > _PROGRESS_S:
                counts.seconds = now - started
                progress.advance(unreported, f"{counts.rate:,.0f} images/s")
                shown, unreported = now, 0
    finally:
        counts.seconds = time.monotonic() - started
        progress.advance(unreported, f"{counts.rate:,.0f} images/s")


def _above(row: Classification, threshold: float | None) -> Classification:
    if threshold is None or row.error is not None:
        return row
    kept = tuple(p for p in row.predictions if p.probability >= threshold)
    return row if len(kept) == len(row.predictions) else dataclasses.replace(row, predictions=kept)
