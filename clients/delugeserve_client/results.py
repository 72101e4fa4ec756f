"""What a classifier answers."""

from __future__ import annotations

from dataclasses import dataclass

from delugeserve_client.errors import ImageError


@dataclass(frozen=True)
class Prediction:
    """One class that an image may show.

    Attributes:
        label: the class's name, as the server gives it; ``class 12`` where it gives none.
        index: the class's index among the model's outputs.
        probability: the network's probability, in [0, 1], to the six decimals Triton sends.
    """

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Classification:
    """The answer for one image.

    Attributes:
        source: the image's path, or ``image 3`` for the third image given without one.
        predictions: the likeliest classes, likeliest first; empty where ``error`` is set.
        error: why the image could not be read, or None.
    """

    source: str
    predictions: tuple[Prediction, ...]
    error: ImageError | None = None

    @property
    def top(self) -> Prediction:
        """The likeliest class.

        Raises:
            ImageError: the image could not be read.
        """
        if self.error is not None:
            raise self.error
        return self.predictions[0]
