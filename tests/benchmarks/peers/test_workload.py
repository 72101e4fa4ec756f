"""Which images are sent, and which answers count as right."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from peer_model import MODEL

from benchmarks.peers import workload
from benchmarks.peers.interface import JPEG, PIXELS
from delugeserve.errors import UsageError

ANSWERS = np.float32(
    [[0.7, 0.2, 0.06, 0.04], [0.4, 0.3, 0.155, 0.145], [0.992, 0.004, 0.003, 0.001]]
)


def test_classes_that_may_change_places_are_not_clear():
    assert workload.is_clear(ANSWERS, 3).tolist() == [False, False, True]
    assert workload.is_clear(ANSWERS, 2).all()
    assert workload.is_clear(ANSWERS, 4).all(), "all classes are in the answer"


@pytest.fixture
def engine(monkeypatch):
    """Let the engine answer with the rows of an array, in turn."""

    def answer(rows):
        turns = iter(rows)
        backend = SimpleNamespace(load=lambda *_: lambda _: (None, next(turns)[None]))
        manifest = SimpleNamespace(backend="stub", precision="fp32")
        monkeypatch.setattr(workload, "read_manifest", lambda _: manifest)
        monkeypatch.setattr(workload, "BACKENDS", {"stub": backend})
        monkeypatch.setattr(workload, "photographs", lambda: [b"a", b"b", b"c"])

    return answer


PLAIN = dataclasses.replace(
    MODEL,
    preprocessing=lambda file: np.full((2, 2, 3), file[0], np.uint8),  # type: ignore[arg-type]
)


def test_unclear_images_are_not_sent(engine):
    engine(ANSWERS)
    pixels, jpeg = workload.prepare(PLAIN, [PIXELS, JPEG])
    assert (jpeg.images, pixels.images) == ([b"c"], [b"c" * 12])
    assert jpeg.answers.tolist() == [[*ANSWERS[2, :3].tolist(), 0]]
    assert pixels.answers.tolist() == [ANSWERS[2].tolist()]


def test_a_model_without_clear_answers_is_refused(engine):
    engine(np.full((3, 4), 0.25, np.float32))
    with pytest.raises(UsageError):
        workload.prepare(PLAIN, [PIXELS])
