"""Client of a Triton Inference Server that classifies images.

>>> from delugeserve_client import Classifier
>>> with Classifier("localhost:8001", model="delugenet38") as classifier:  # doctest: +SKIP
...     for result in classifier.classify(["cat.jpg", "ship.png"]):
...         print(result.source, result.top.label, result.top.probability)

It needs numpy, Pillow and tritonclient, and neither torch nor the rest of the project. What it must
know of a model it reads from the server.
"""

from __future__ import annotations

from delugeserve_client.aio import AsyncClassifier
from delugeserve_client.classifier import Classifier
from delugeserve_client.errors import (
    ClientError,
    ImageError,
    InferenceFailed,
    ModelUnavailable,
    ServerUnavailable,
)
from delugeserve_client.results import Classification, Prediction
from delugeserve_client.served import ServedModel

__all__ = [
    "AsyncClassifier",
    "Classification",
    "Classifier",
    "ClientError",
    "ImageError",
    "InferenceFailed",
    "ModelUnavailable",
    "Prediction",
    "ServedModel",
    "ServerUnavailable",
]
