"""A small model, and images for it, for tests of ``benchmarks.peers``."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.interface import Model
from delugeserve_client import Preprocessing

IMAGES = [bytes([one, 2, 3, 4]) * 3 for one in range(10)]
MODEL = Model(
    name="stub",
    repository=Path(),
    folder=Path(),
    artefact=Path(),
    precision="f32",
    shape=(2, 2, 3),
    preprocessing=Preprocessing(2, 2, 2),
    labels=tuple("abcd"),
    top_k=3,
)
