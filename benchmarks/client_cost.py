"""What does the client cost an image, against tritonclient alone?

    python benchmarks/client_cost.py [--models delugenet38] [--url HOST:PORT]

Needs the extras `export` and `server`, and with `--url` neither.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import common
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

from delugeserve_client import AsyncClassifier, Classifier

METHOD = """The same pixels go to the same server over gRPC on the loopback: with tritonclient's
`infer` alone, and with `infer` of this client, which keeps the deadline, repeats failed attempts
and follows the server with its requests in flight. Both return the probabilities as an array.
Threads have one request in flight, asyncio eight. The figure is the processor time of the client's
whole process for an image: all its threads, and none of the server's. 'shared memory' sends inputs
of 128 KiB and more through the memory of the machine, as the client does by itself on loopback
addresses; 'connection' is the client without it."""

BATCHES = (1, 32)
_IN_FLIGHT = 8


def cpu_per_image(call: Callable[[], object], images: int, seconds: float) -> float:
    """Return microseconds of processor time of this process for an image."""
    for _ in range(5):  # the contestant before has filled the caches
        call()
    count, end, start = 0, time.perf_counter() + seconds, time.process_time()
    while time.perf_counter() < end or count < 10:
        call()
        count += 1
    return 1e6 * (time.process_time() - start) / (count * images)


@contextmanager
def threads(url: str, model: str, batch: np.ndarray) -> Iterator[dict[str, Callable[[], object]]]:
    """Yield a call of each contestant."""

    def raw() -> Any:
        tensor = triton.InferInput("image", list(batch.shape), "UINT8")
        tensor.set_data_from_numpy(batch)
        wanted = [triton.InferRequestedOutput("probabilities")]
        return client.infer(
            model, [tensor], outputs=wanted, client_timeout=30, timeout=30_000_000
        ).as_numpy("probabilities")

    with (
        triton.InferenceServerClient(url) as client,
        Classifier(url, model, shared_memory="off") as plain,
        Classifier(url, model) as usual,
    ):
        yield {
            "tritonclient": raw,
            "connection": lambda: plain.infer(batch),
            "shared memory": lambda: usual.infer(batch),
        }


@contextmanager
def loops(url: str, model: str, batch: np.ndarray) -> Iterator[dict[str, Callable[[], object]]]:
    """Yield a call of each contestant, which makes several requests at once."""

    async def raw() -> Any:
        tensor = triton_aio.InferInput("image", list(batch.shape), "UINT8")
        tensor.set_data_from_numpy(batch)
        wanted = [triton_aio.InferRequestedOutput("probabilities")]
        found = await client.infer(
            model, [tensor], outputs=wanted, client_timeout=30, timeout=30_000_000
        )
        return found.as_numpy("probabilities")

    def at_once(call: Callable[[], Awaitable[object]]) -> Callable[[], object]:
        async def together() -> None:
            await asyncio.gather(*(call() for _ in range(_IN_FLIGHT)))

        return lambda: runner.run(together())

    async def make() -> tuple[Any, AsyncClassifier]:
        return triton_aio.InferenceServerClient(url), AsyncClassifier(
            url, model, shared_memory="off", in_flight=_IN_FLIGHT
        )

    with asyncio.Runner() as runner:
        client, plain = runner.run(make())
        yield {"tritonclient": at_once(raw), "connection": at_once(lambda: plain.infer(batch))}
        runner.run(plain.close())
        runner.run(client.close())


def compare(url: str, model: str, chosen: Any) -> list[dict[str, Any]]:
    """Measure all contestants, print the table, and return the reports."""
    results, rows = [], []
    with Classifier(url, model) as classifier:
        shape = classifier.model.image_shape
    for size in BATCHES:
        batch = np.random.default_rng(0).integers(0, 256, (size, *shape), dtype=np.uint8)
        for kind, made, at_once in (("threads", threads, 1), ("asyncio", loops, _IN_FLIGHT)):
            with made(url, model, batch) as calls:
                contestants = {
                    name: lambda call=call, images=size * at_once: cpu_per_image(
                        call, images, chosen.seconds
                    )
                    for name, call in calls.items()
                }
                title = f"{kind}, batch {size}"
                samples = common.interleave(title, contestants, chosen.rounds)
            results.append(
                {
                    "model": model,
                    "kind": kind,
                    "batch": size,
                    "unit": "us/image",
                    "samples": samples,
                }
            )
            for name in list(samples)[1:]:
                row = [f"{title}, {name}", common.spread(samples["tritonclient"], ".0f")]
                row += [common.spread(samples[name], ".0f")]
                rows.append([*row, common.ratio(samples, name, "tritonclient")])
    common.show(model, ["", "tritonclient, us/image", "this client", "ratio"], rows)
    return results


def main() -> None:
    parser = common.options(__doc__, models=["delugenet38"], rounds=9, seconds=1.0)
    parser.add_argument("--url", help="gRPC address of a server that serves the models")
    chosen = common.start(parser, METHOD)
    results = []
    with ExitStack() as stack:
        url = chosen.url
        if url is None:
            from delugeserve_export import export, plan_export

            repository = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for name in chosen.models:
                export(plan_export(name, repository=repository, image_model=False))
            url = stack.enter_context(common.serving(repository)).url
        for name in chosen.models:
            results += compare(url, name, chosen)
    common.finish(chosen, results)


if __name__ == "__main__":
    main()
