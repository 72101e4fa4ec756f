"""The measurements of ``delugeserve benchmark --waterfall``: one image, from the inside out."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from delugeserve.artifacts.repository import StoredModel, find_models, repository_option
from delugeserve.errors import UsageError
from delugeserve.load import Target, open_sender, prepare_target
from delugeserve.load.closed_loop import ClosedLoop
from delugeserve.load.statistics import StatisticsReader
from delugeserve.load.waterfall import STEPS, Step, waterfall
from delugeserve.serving.supervisor import serve
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve.verification.verify import load_version
from delugeserve_client import Classifier

_ROUNDS = 5
_WARMUP = 0.3  # seconds before each measurement: the one before has filled the caches

Measured = dict[str, list[float]]


def measure_waterfall(
    repository: Path,
    model: str | None,
    *,
    duration: float,
    image: Path | None = None,
    progress: Progress = NO_PROGRESS,
) -> tuple[str, tuple[Step, ...]]:
    """Serve a model twice, bare and behind the front, and measure what each step adds.

    Every round measures each step briefly, so that a machine whose speed changes slows them all.

    Args:
        repository: where the model is.
        model: its name; None takes the only one.
        duration: seconds for all rounds of one step.
        image: the file to decode; None takes a JPEG of the network's size.
        progress: receives one step for each measurement.

    Returns:
        The model's name, and the steps.

    Raises:
        UsageError: there is not exactly one model, and no name is given.
        ServerError: a server does not start.
    """
    stored = _choose(repository, model)
    seconds = duration / _ROUNDS
    rounds: Measured = {name: [] for name in STEPS}
    with ExitStack() as stack:
        progress.stage("start two servers")
        direct = stack.enter_context(_serving(repository, stored.name, direct=True))
        front = stack.enter_context(_serving(repository, stored.name, direct=False))
        _, infer = load_version(stored.folder / str(stored.version))
        target = prepare_target(direct, stored.name)
        images = target.images
        bare = stack.enter_context(_loop(target))
        behind = stack.enter_context(_loop(_at(target, front)))
        classifier = stack.enter_context(Classifier(front, stored.name, decode="client"))
        encoded = image.read_bytes() if image is not None else _jpeg(images[0])
        contestants: dict[str, Callable[[Measured], None]] = {
            "engine": _timed("engine in process", lambda: infer(images[:1]), seconds),
            "bare server": lambda found: bare(found, seconds),
            "front": lambda found: _last(behind, "front", found, seconds),
            "client": _timed("client", lambda: classifier.infer(images[:1]), seconds),
            "decode": _timed("decode", lambda: classifier.classify(encoded), seconds),
        }
        progress.stage(f"measure {stored.name}", total=_ROUNDS * len(contestants))
        for number in range(_ROUNDS):
            for name in list(contestants)[:: -1 if number % 2 else 1]:
                contestants[name](rounds)
                progress.advance(1, name)
    return stored.name, waterfall(rounds)


def _choose(repository: Path, model: str | None) -> StoredModel:
    models = find_models(repository, [model] if model is not None else None)
    if len(models) != 1 or models[0].version is None:
        raise UsageError(
            f"{repository} has {len(models)} models with a version, not one.",
            f"Use --model NAME; see: delugeserve inspect{repository_option(repository)}",
        )
    return models[0]


@contextmanager
def _serving(repository: Path, model: str, *, direct: bool) -> Iterator[str]:
    ports = {"grpc_port": 0, "http_port": None, "metrics_port": None}
    with serve(repository, models=[model], direct=direct, **ports) as server:  # type: ignore[arg-type]
        yield server.grpc_url


def _at(target: Target, url: str) -> Target:
    return Target(url, target.model, target.images, target.expected)


@contextmanager
def _loop(target: Target) -> Iterator[Callable[[Measured, float], None]]:
    """Yield a function that keeps one request in flight, and notes what it and the server say."""
    with closing(open_sender(target)) as sender, closing(StatisticsReader(target)) as reader:
        loop = ClosedLoop(sender, target, 1)

        def measure(found: Measured, seconds: float) -> None:
            loop.run(_WARMUP)
            before = reader.read()
            samples = loop.run(seconds)
            after = reader.read()
            if before and after:
                server = after.since(before)
                found["Python backend"].append(server.compute_ms)
                found["scheduler"].append(server.compute_ms + server.queue_ms)
            found["gRPC"].append(float(np.mean(samples.latencies)) * 1e3)

        yield measure


def _last(
    measure: Callable[[Measured, float], None], name: str, found: Measured, seconds: float
) -> None:
    """Measure with a loop, and note only the client's time, as another step."""
    aside: Measured = {step: [] for step in STEPS}
    measure(aside, seconds)
    found[name] += aside["gRPC"]


def _timed(name: str, call: Callable[[], object], seconds: float) -> Callable[[Measured], None]:
    def measure(found: Measured) -> None:
        _mean_ms(call, _WARMUP)
        found[name].append(_mean_ms(call, seconds))

    return measure


def _mean_ms(call: Callable[[], object], seconds: float) -> float:
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or not count:
        call()
        count += 1
    return 1e3 * elapsed / count


def _jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format="jpeg", quality=95)
    return encoded.getvalue()
