"""What labels: a running server, an exported version in this process, or a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from delugeserve.bulk.engines.client import ClientLabeller, Endpoint

if TYPE_CHECKING:
    from delugeserve.bulk.labelling import Labeller

Engine: TypeAlias = "Endpoint | Path"
"""A server's model, or the folder of an exported version; it can be sent to another process."""


def open_labeller(engine: Engine) -> Labeller:
    """Open what labels.

    Raises:
        ClientError: the server does not answer, or does not serve the model.
        UsageError: the version cannot be loaded.
    """
    if isinstance(engine, Endpoint):
        return ClientLabeller(engine)
    from delugeserve.bulk.engines.in_process import InProcessLabeller

    return InProcessLabeller(engine)
