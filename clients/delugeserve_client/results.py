"""Results of a classifier."""

from __future__ import annotations

from dataclasses import dataclass

from delugeserve_client.errors import ImageError


@dataclass(frozen=True)
class Prediction:
    """One class, and how probable it is.

    Attributes:
        label: name of the class, from the server; ``class 12`` if the model has no labels.
        index: index of the class among the model's outputs.
        probability: in [0, 1], with the six decimals that Triton sends.
    """

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Classification:
    """The result for one image.

    Attributes:
        source: the image's path, or ``image 3`` for the third image given without one.
        predictions: the most probable classes, in descending order; empty if ``error`` is set.
        error: why the image could not be read, or None.
    """

    source: str
    predictions: tuple[Prediction, ...]
    error: ImageError | None = None

    @property
    def top(self) -> Prediction:
        """The most probable class.

        Raises:
            ImageError: the image could not be read.
        """
        if self.error is not None:
            raise self.error
        return self.predictions[0]
