"""What a load test sends, and the answers that it expects."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from delugeserve.errors import UsageError
from delugeserve_client import Classifier
from delugeserve_client.server import ServerDescription

if TYPE_CHECKING:
    from delugeserve_client import Credentials, ServedModel

DISTINCT_IMAGES = 64
"""Enough distinct images that no processor cache helps, few enough to fit in memory."""


@dataclass(frozen=True)
class Target:
    """A served model, what to send to it, and the answers that it gives when nothing else runs.

    Attributes:
        url: the server's address.
        model: the model's name.
        images: uint8 ``[N, H, W, 3]``.
        expected: float32 ``[N, classes]``: the model's probabilities for each image; None if
            answers are not checked.
        batch_size: images per request.
        timeout: seconds after which a request counts as failed.
        unique: make every request different in its last pixels, so that no cache can answer it.
        tolerance: largest difference of a probability from the expected one.
        credentials: what the client shows to the server; None takes those of the environment.
        server_version: version of the Triton Inference Server, where it is one.
        max_batch_size: most images per request that the model takes; None if that is not known.

    Raises:
        UsageError: the batch size is larger than the model takes.
    """

    url: str
    model: str
    images: npt.NDArray[np.uint8] = field(repr=False)
    expected: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    batch_size: int = 1
    timeout: float = 30.0
    unique: bool = False
    tolerance: float = 0.01
    credentials: Credentials | None = field(default=None, repr=False)
    server_version: str = ""
    max_batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.max_batch_size is not None and self.batch_size > self.max_batch_size:
            raise UsageError(
                f"The model '{self.model}' takes at most {self.max_batch_size} images per request, "
                f"not {self.batch_size}.",
                "Measure smaller batches, or export it with a larger --max-batch-size.",
            )


def describe_model(
    url: str, model: str | None, timeout: float, credentials: Credentials | None
) -> ServedModel:
    """Return the description of a model from its server.

    Args:
        url: the server's address.
        model: the model's name; None for the server's only model.
        timeout: seconds that an answer may take.
        credentials: what the client shows to the server; None takes those of the environment.

    Raises:
        ClientError: the server cannot be asked.
    """
    with Classifier(
        url, model, timeout=timeout, credentials=credentials, decode="client"
    ) as classifier:
        return classifier.model


def prepare_target(
    url: str = "localhost:8001",
    model: str | None = None,
    *,
    batch_size: int = 1,
    images: npt.NDArray[np.uint8] | Path | None = None,
    timeout: float = 30.0,
    credentials: Credentials | None = None,
    check: bool = True,
) -> Target:
    """Connect to a server, choose what to send, and ask for the answers to expect.

    Args:
        url: the server's address.
        model: the model's name; by default the server's only model.
        batch_size: images per request.
        images: uint8 ``[N, H, W, 3]`` to send in turn, or an image file, which is prepared as the
            model asks; by default random pixels.
        timeout: seconds after which a request counts as failed.
        credentials: what the client shows to the server; None takes those of the environment.
        check: ask the server for the answer to each image, one by one, to compare those of the
            timed run with.

    Raises:
        ClientError: the server cannot be asked, or the file is not an image.
        UsageError: the batch size is larger than the model takes.
    """
    served = describe_model(url, model, timeout, credentials)
    with closing(ServerDescription(url, timeout, credentials)) as server:
        metadata: Any = server.read("server")
    if isinstance(images, Path):
        images = served.preprocessing(images)[None]
    elif images is None:
        shape = (max(DISTINCT_IMAGES, batch_size), *served.image_shape)
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    target = Target(
        url=url,
        model=served.name,
        images=images,
        batch_size=batch_size,
        timeout=timeout,
        credentials=credentials,
        server_version=str(metadata.get("version", "")),
        max_batch_size=served.max_batch_size,
    )
    if not check:
        return target
    with Classifier(url, served.name, timeout=timeout, credentials=credentials) as classifier:
        answers = [classifier.infer(images[i : i + 1]) for i in range(len(images))]
    return replace(target, expected=np.concatenate(answers))
