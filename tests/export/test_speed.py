"""Timing artefacts."""

import itertools

import numpy as np

from delugeserve_export import speed


def test_a_busy_machine_does_not_make_artefacts_slow(monkeypatch):
    now = 0.0
    seconds = itertools.cycle([0.03, 0.02, 0.5])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now)

    def infer(batch):
        nonlocal now
        now += next(seconds) * len(batch)

    images = np.zeros((3, 2, 2, 3), np.uint8)
    assert speed.measure_speed({"fp32": infer}, images, [1, 8]) == {"fp32": {1: 20.0, 8: 160.0}}


def test_a_batch_repeats_the_images():
    images = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
    assert speed.fill_batch(images, 7).ravel().tolist() == [0, 1, 2, 0, 1, 2, 0]
