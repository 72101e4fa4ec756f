"""Client of a Triton Inference Server that classifies images.

>>> from delugeserve_client import Classifier
>>> with Classifier("localhost:8001") as classifier:  # doctest: +SKIP
...     for result in classifier.classify(["cat.jpg", "ship.png"]):
...         print(result.source, result.top.label, result.top.probability)

It needs numpy, Pillow and tritonclient, and does not import torch or the rest of the project. It
reads a model's input size, classes and preprocessing from the server.

Names are loaded when they are first used (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from delugeserve_client.aio import AsyncClassifier
    from delugeserve_client.classifier import Classifier
    from delugeserve_client.core.observing import Observer
    from delugeserve_client.core.retry import RetryPolicy
    from delugeserve_client.credentials import Credentials
    from delugeserve_client.errors import (
        AddressError,
        ArgumentError,
        AuthenticationFailed,
        BatchError,
        ClassifierClosed,
        ClientError,
        ForkedClassifier,
        ImageError,
        InferenceFailed,
        MissingPackageError,
        ModelUnavailable,
        OutputError,
        QueueFull,
        RequestRefused,
        ServerDraining,
        ServerGone,
        ServerOverloaded,
        ServerTimeout,
        ServerUnavailable,
        UnsuitableModel,
        WrongProtocol,
    )
    from delugeserve_client.folders import FolderContents, find_images
    from delugeserve_client.formats import is_image_file
    from delugeserve_client.preprocessing import Preprocessing
    from delugeserve_client.results import Classification, Prediction
    from delugeserve_client.served import ServedModel

__all__ = [
    "AddressError",
    "ArgumentError",
    "AsyncClassifier",
    "AuthenticationFailed",
    "BatchError",
    "Classification",
    "Classifier",
    "ClassifierClosed",
    "ClientError",
    "Credentials",
    "FolderContents",
    "ForkedClassifier",
    "ImageError",
    "InferenceFailed",
    "MissingPackageError",
    "ModelUnavailable",
    "Observer",
    "OutputError",
    "Prediction",
    "Preprocessing",
    "QueueFull",
    "RequestRefused",
    "RetryPolicy",
    "ServedModel",
    "ServerDraining",
    "ServerGone",
    "ServerOverloaded",
    "ServerTimeout",
    "ServerUnavailable",
    "UnsuitableModel",
    "WrongProtocol",
    "find_images",
    "is_image_file",
]

_MODULES = {
    "RetryPolicy": "core.retry",
    "AsyncClassifier": "aio",
    "Classification": "results",
    "Classifier": "classifier",
    "Credentials": "credentials",
    "FolderContents": "folders",
    "Observer": "core.observing",
    "Prediction": "results",
    "Preprocessing": "preprocessing",
    "ServedModel": "served",
    "find_images": "folders",
    "is_image_file": "formats",
}  # where each name is defined; the errors are in errors


if not TYPE_CHECKING:  # a type checker would take any name for an attribute

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'errors')}")
        value: object = getattr(module, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
