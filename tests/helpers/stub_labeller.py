"""A labeller that answers from a picture's name, at once or after a while."""

import hashlib
import time

from delugeserve.bulk.labelling import ModelIdentity
from delugeserve_client import (
    Classification,
    ClientError,
    ImageError,
    Prediction,
    ServerUnavailable,
)

MODEL = ModelIdentity("net", "3", "0123456789abcdef")


class StubLabeller:
    """Labels by name; names that hold ``bad`` cannot be read.

    Args:
        stops_after: results after which the server is gone; None for never.
        wait: seconds before each result.
        model: what it says it is.
    """

    def __init__(self, stops_after=None, wait=0.0, model=MODEL):
        self.model, self.classes = model, 10
        self.stops_after, self.wait = stops_after, wait
        self.asked = []

    def label(self, items, top_k):
        for number, item in enumerate(items):
            if number == self.stops_after:
                raise ServerUnavailable("No server answers at here.", "Start it.", url="here")
            if self.wait:
                time.sleep(self.wait)
            self.asked.append(item.source)
            yield row_of(item, top_k)

    def close(self):
        pass


def row_of(item, top_k=2):
    if item.error is not None or "bad" in item.source:
        error = item.error or ImageError(f"{item.source} is bad.", "Copy it.", source=item.source)
        return Classification(item.source, (), error)
    digest = hashlib.sha256(item.source.encode("utf-8", "surrogateescape")).digest()
    first = 0.5 + digest[0] / 512
    return Classification(
        item.source,
        tuple(
            Prediction(f"class {digest[k]}", digest[k], round(first / (k + 1), 6))
            for k in range(top_k)
        ),
    )


__all__ = ["MODEL", "ClientError", "StubLabeller", "row_of"]
