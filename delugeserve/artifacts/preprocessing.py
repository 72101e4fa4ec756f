"""How images become a network's input: :mod:`delugeserve_client.preprocessing` for a task."""

from __future__ import annotations

from delugeserve.zoo import Task
from delugeserve_client.preprocessing import Preprocessing

DIGEST = "preprocessing"
"""Key of :attr:`Preprocessing.digest` in ONNX metadata and in the parameters of config.pbtxt."""


def preprocessing_of(task: Task) -> Preprocessing:
    """Return how an image becomes the input of a network for this task."""
    return Preprocessing(task.image_size, task.image_size, task.resize_size)


def preprocessing_parameters(preprocessing: Preprocessing) -> dict[str, str]:
    """Return the ``parameters`` of config.pbtxt that tell clients how to prepare images."""
    return {
        "resize_size": str(preprocessing.resize_size),
        "interpolation": preprocessing.interpolation,
        DIGEST: preprocessing.digest,
    }
