"""Read the header of a TensorRT plan, without TensorRT."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from delugeserve.artifacts.manifest import Manifest, read_manifest
from delugeserve.errors import RepositoryError, SubjectError

# A plan starts with a tag; bytes 24 to 27 are the version that built it. trtexec reads it this way
# (--getPlanVersionOnly; samples/common/sampleEngines.cpp in NVIDIA/TensorRT). TensorRT-RTX has
# another tag and the same layout, as seen in a plan that 1.7.1.116 built.
BUILDERS = {b"ftrt": "TensorRT", b"vtrt": "TensorRT-RTX"}
"""Titles of the runtimes that build plans, by the tag at the start of a plan."""

_VERSION = slice(24, 28)


@dataclass(frozen=True)
class PlanFile:
    """A TensorRT plan.

    Attributes:
        path: the file.
        bytes: its size.
        builder: ``TensorRT`` or ``TensorRT-RTX``.
        version: the builder's version, such as ``10.13.3.9``.
        manifest: the manifest in the same folder; None if there is none that can be read.
    """

    path: Path
    bytes: int
    builder: str
    version: str
    manifest: Manifest | None


def read_plan(path: Path) -> PlanFile:
    """Read the first bytes of a plan and the manifest in its folder.

    Raises:
        SubjectError: it is not a plan.
    """
    with path.open("rb") as file:
        head = file.read(_VERSION.stop)
    builder = BUILDERS.get(head[:4])
    if builder is None or len(head) < _VERSION.stop:
        raise SubjectError(
            f"{path} is not a TensorRT plan.",
            "Copy it again from where it came, or export the model again.",
            str(path),
        )
    try:
        manifest = read_manifest(path.parent)
    except RepositoryError:
        manifest = None
    version = ".".join(map(str, head[_VERSION]))
    return PlanFile(path, path.stat().st_size, builder, version, manifest)
