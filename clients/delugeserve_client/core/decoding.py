"""Where encoded images are decoded: by their server, or here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Place: TypeAlias = Literal["client", "server"]

_TRIALS = 2  # of each place
_MARGIN = 1.1


@dataclass
class DecodingChoice:
    """Chooses the faster place by trying both on the first images of a long stream.

    No rule tells it beforehand: it depends on the cores that either side has to spare, on what else
    they do, on the network between them, and on the size of the images against the model's input.
    Both places are tried in turn, twice, each time on one request with nothing else in flight, so
    that neither profits from what the other left in a queue; the better time of each counts, since
    first requests are slower. The client's place is kept unless the server's is a tenth faster:
    a server that decodes serves others less.

    Attributes:
        seconds: seconds per image that were measured, by place.
    """

    seconds: dict[Place, list[float]] = field(default_factory=lambda: {"client": [], "server": []})

    @property
    def next_trial(self) -> Place | None:
        """The place to try next; None when the choice is made."""
        place: Place = "client"
        if len(self.seconds["server"]) < len(self.seconds["client"]):
            place = "server"
        return place if len(self.seconds[place]) < _TRIALS else None

    def measured(self, place: Place, images: int, seconds: float) -> None:
        """Count a trial.

        Args:
            place: where the images were decoded.
            images: their number, at least 1.
            seconds: from the first of them to the last answer.
        """
        self.seconds[place].append(seconds / images)

    @property
    def place(self) -> Place:
        """The faster place, as far as it is known."""
        if self.next_trial is not None:
            return "client"
        here, there = min(self.seconds["client"]), min(self.seconds["server"])
        return "server" if there * _MARGIN < here else "client"
