"""The fastest form of weighted sums on this machine: measured once, then read from the cache."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from delugeserve.artifacts.interface import Infer, Precision, SumForm
from delugeserve.artifacts.records import SumFormChoice
from delugeserve.runtimes.base import Backend
from delugeserve.system.cache import cache_folder, write_cache
from delugeserve.system.files import temporary_folder
from delugeserve_export.speed import measure_speed

_log = logging.getLogger(__name__)

FORMS: tuple[SumForm, ...] = get_args(SumForm)

_BATCH = 8
"""At batch 1 the sums take little of the time; larger batches only take longer to measure."""


def choose_sum_form(
    backend: Backend,
    precision: Precision,
    write: Callable[[SumForm], bytes],
    images: NDArray[np.uint8],
    facts: Mapping[str, Any],
) -> SumFormChoice:
    """Build the graph in every form, time each, and return the fastest.

    Args:
        backend: the runtime.
        precision: what it computes in.
        write: returns the graph in a form, as a serialised ONNX model.
        images: uint8 ``[K, H, W, 3]``.
        facts: what the result depends on: the model's numbers, the machine, versions.

    Returns:
        The form, and the milliseconds of a batch of eight in each.

    Raises:
        UsageError: there is no room for temporary files.
    """
    key = hashlib.sha256(
        json.dumps([backend.name, precision, facts], sort_keys=True, default=str).encode()
    ).hexdigest()
    file = cache_folder() / "sum-forms" / f"{key}.json"
    figures = _read(file)
    if figures is None:
        figures = _measure(backend, precision, write, images)
        write_cache(file, json.dumps(figures).encode())
        _log.debug("Sum forms timed now, ms per batch of %d: %s", _BATCH, figures)
    else:
        _log.debug("Sum forms timed earlier (%s), ms per batch of %d: %s", file, _BATCH, figures)
    fastest = min(figures, key=lambda form: figures[form])
    return SumFormChoice(fastest, figures)


def _measure(
    backend: Backend,
    precision: Precision,
    write: Callable[[SumForm], bytes],
    images: NDArray[np.uint8],
) -> dict[SumForm, float]:
    with temporary_folder() as folder:
        contestants: dict[SumForm, Infer] = {}
        for form in FORMS:
            place = folder / form
            place.mkdir()
            contestants[form] = backend.load(backend.build(write(form), place), precision)
        speed = measure_speed(contestants, images, [_BATCH])
    return {form: speed[form][_BATCH] for form in FORMS}


def _read(file: Path) -> dict[SumForm, float] | None:
    try:
        figures = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(figures, dict) and set(figures) == set(FORMS)
    return figures if whole and all(isinstance(ms, float) for ms in figures.values()) else None
