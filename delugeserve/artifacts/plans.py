"""What a TensorRT plan says of itself, without TensorRT."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from delugeserve.artifacts.manifest import Manifest, read_manifest
from delugeserve.errors import RepositoryError, UsageError

# A plan starts with a tag; bytes 24 to 27 are the version that built it. TensorRT's own trtexec
# reads it so (--getPlanVersionOnly; samples/common/sampleEngines.cpp in NVIDIA/TensorRT). That
# TensorRT-RTX does likewise, under a tag of its own, was seen in a plan that 1.7.1.116 built.
_TAGS = {b"ftrt": "TensorRT", b"vtrt": "TensorRT-RTX"}
_VERSION = slice(24, 28)


@dataclass(frozen=True)
class PlanFile:
    """A plan.

    Attributes:
        path: the file.
        bytes: its size.
        builder: ``TensorRT`` or ``TensorRT-RTX``.
        version: its version, four numbers with dots between them.
        manifest: what the exporter wrote beside it; None if there is no manifest of this release.
    """

    path: Path
    bytes: int
    builder: str
    version: str
    manifest: Manifest | None


def read_plan(path: Path) -> PlanFile:
    """Read the first bytes of a plan, and the manifest beside it.

    Raises:
        UsageError: it is none.
    """
    with path.open("rb") as file:
        head = file.read(_VERSION.stop)
    builder = _TAGS.get(head[:4])
    if builder is None or len(head) < _VERSION.stop:
        raise UsageError(
            f"{path} is not a TensorRT plan.", "Give an undamaged one, or export the model again."
        )
    try:
        manifest = read_manifest(path.parent)
    except RepositoryError:
        manifest = None
    version = ".".join(map(str, head[_VERSION]))
    return PlanFile(path, path.stat().st_size, builder, version, manifest)
