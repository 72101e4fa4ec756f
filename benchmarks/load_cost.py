"""What a load test itself costs: three clients that keep requests in flight at one server.

    python benchmarks/load_cost.py [--models delugenet38] [--repository model_repository]

Needs the extras `server` and `benchmark`, and exported models.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import common
import numpy as np
import tritonclient.grpc

from delugeserve.load import Target, prepare_target
from delugeserve.load.closed_loop import ClosedLoop
from delugeserve.load.senders import Done, GrpcSender, PlainGrpcSender, Sender
from delugeserve_client import Classifier

METHOD = """One bare server. Each contestant keeps as many requests in flight, in this process, one
contestant at a time: ours (HTTP/2 frames joined from prepared bytes), gRPC's Python client with the
same prepared messages, and tritonclient's callbacks with prepared inputs and unread answers, the
leanest loop that tritonclient allows. Client and server share the cores, so what the client uses
the server lacks. CPU time is this process's, per request."""

LOADS = ((1, 32), (1, 1), (32, 2))  # images per request, requests in flight


class Loop:
    """A closed loop of ours that returns images/s, and notes its CPU time per request."""

    def __init__(
        self, open_sender: Callable[[Target], Sender], target: Target, flying: int, seconds: float
    ) -> None:
        self._open, self._target = open_sender, target
        self._flying, self._seconds = flying, seconds
        self.us: list[float] = []

    def __call__(self) -> float:
        """Run the loop once and return images/s."""
        with closing(self._open(self._target)) as sender:
            loop = ClosedLoop(sender, self._target, self._flying)
            loop.run(self._seconds / 4)
            used = time.process_time()
            samples = loop.run(self._seconds)
            used = time.process_time() - used
        answers = len(samples.latencies)
        self.us.append(1e6 * used / max(answers, 1))
        return answers * self._target.batch_size / samples.seconds


class TritonclientSender:
    """Sends prepared inputs with tritonclient's callbacks, and does not look at the answers."""

    def __init__(self, target: Target) -> None:
        self._client = tritonclient.grpc.InferenceServerClient(target.url)
        self._model, self._outputs = (
            target.model,
            [tritonclient.grpc.InferRequestedOutput("probabilities")],
        )
        self._images = target.images
        self._inputs: dict[tuple[int, ...], Any] = {}

    def send(self, sample_ids: Sequence[int], done: Done) -> None:
        """Send one request."""
        key = tuple(sample_ids)
        tensor = self._inputs.get(key)
        if tensor is None:
            batch = self._images[list(key)]
            tensor = tritonclient.grpc.InferInput("image", list(batch.shape), "UINT8")
            tensor.set_data_from_numpy(batch)
            self._inputs[key] = tensor

        def answered(result: Any, error: Exception | None) -> None:  # noqa: ARG001
            done(b"" if error is None else None, None if error is None else str(error))

        self._client.async_infer(self._model, [tensor], callback=answered, outputs=self._outputs)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def main() -> None:
    parser = common.options(__doc__ or "", models=("delugenet38",), rounds=5, seconds=3.0)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    chosen = common.start(parser, METHOD)
    report = []
    with common.serving(chosen.repository) as served:
        for model in chosen.models:
            report += compare(model, served, chosen)
    common.finish(chosen, report)


def compare(model: str, served: common.Served, chosen: Any) -> list[dict[str, Any]]:
    """Time the contestants of a model; return the reports, one per load."""
    target = prepare_target(served.url, model, check=False)
    rows: list[list[str]] = []
    reports: list[dict[str, Any]] = []
    with Classifier(served.url, model) as classifier:
        largest = classifier.model.max_batch_size
    for images, flying in LOADS:
        batch = min(images, largest)
        sized = Target(served.url, model, target.images, batch_size=batch)
        contestants: dict[str, Any] = {
            "ours": Loop(PlainGrpcSender, sized, flying, chosen.seconds),
            "gRPC, prepared": Loop(GrpcSender, sized, flying, chosen.seconds),
            "tritonclient": Loop(TritonclientSender, sized, flying, chosen.seconds),
        }
        title = f"{model}, batch {batch}, {flying} in flight"
        found = common.interleave(title, contestants, chosen.rounds)
        cost = {f"{name}, us a request": each.us for name, each in contestants.items()}
        reports.append({"model": model, "load": [batch, flying], "samples": {**found, **cost}})
        for name, contestant in contestants.items():
            rows.append(
                [
                    f"batch {batch}, {flying} in flight: {name}",
                    common.spread(found[name], ",.0f"),
                    common.ratio(found, name, "tritonclient"),
                    f"{np.median(contestant.us):.0f}",
                ]
            )
    columns = ("load", "images/s", "to tritonclient", "client's us a request")
    common.show(model, columns, rows)
    return reports


if __name__ == "__main__":
    main()
