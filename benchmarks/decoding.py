"""Encoded images to a server, beside images that the client decodes.

    python benchmarks/decoding.py [--models delugenet38] [--flying 16]

Needs the extras `export` and `server`.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import tritonclient.grpc as triton
from image_decoding import photographs

from delugeserve import find_model
from delugeserve.artifacts.preprocessing import preprocessing_of
from delugeserve_export import export, plan_export

METHOD = """The images are JPEGs of 500 x 375. A closed loop: each of some client threads
sends one image, waits for its classes, and sends the next. 'server decodes' sends the file to
MODEL_image; 'client decodes' decodes it in the client's thread and sends pixels to MODEL; 'decoder
alone' sends the file to MODEL_decode, which returns pixels; 'network alone' sends pixels that were
decoded in advance. After a warm-up of a quarter of it, the answers in a window of fixed length are
counted. Client and server share the cores."""


class ClosedLoop:
    """Asks from several threads; one call is one window, and returns images/s."""

    def __init__(self, ask: Callable[[int], object], flying: int, seconds: float) -> None:
        self._ask, self._flying, self._seconds = ask, flying, seconds

    def __call__(self) -> float:
        """Run the loop once."""
        stop, answered = threading.Event(), [0] * self._flying
        failures: list[Exception] = []

        def loop(number: int) -> None:
            try:
                while not stop.is_set():
                    self._ask(number + answered[number])
                    answered[number] += 1
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=loop, args=(one,)) for one in range(self._flying)]
        for thread in threads:
            thread.start()
        time.sleep(self._seconds / 4)
        before, start = sum(answered), time.perf_counter()
        time.sleep(self._seconds)
        found, elapsed = sum(answered) - before, time.perf_counter() - start
        stop.set()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return found / elapsed


def contestants(client: Any, name: str, chosen: Any) -> dict[str, ClosedLoop]:
    preprocessing = preprocessing_of(find_model(name).task)
    images = photographs()
    prepared = [preprocessing(image) for image in images]

    def ask_pixels(pixels: np.ndarray) -> None:
        tensor = triton.InferInput("image", [1, *pixels.shape], "UINT8")
        tensor.set_data_from_numpy(pixels[None])
        wanted = [triton.InferRequestedOutput("probabilities", class_count=5)]
        client.infer(name, [tensor], outputs=wanted)

    def ask_encoded(model: str, source: str, image: bytes, output: Any) -> None:
        tensor = triton.InferInput(source, [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[image]], object))
        client.infer(model, [tensor], outputs=[output])

    classes = triton.InferRequestedOutput("probabilities", class_count=5)
    pixels = triton.InferRequestedOutput("image")
    asks: dict[str, Callable[[int], object]] = {
        "client decodes": lambda n: ask_pixels(preprocessing(images[n % len(images)])),
        "server decodes": lambda n: ask_encoded(
            f"{name}_image", "image", images[n % len(images)], classes
        ),
        "decoder alone": lambda n: ask_encoded(
            f"{name}_decode", "encoded", images[n % len(images)], pixels
        ),
        "network alone": lambda n: ask_pixels(prepared[n % len(images)]),
    }
    return {key: ClosedLoop(ask, chosen.flying, chosen.seconds) for key, ask in asks.items()}


def main() -> None:
    parser = common.options(__doc__, models=["delugenet38"], rounds=9, seconds=3.0)
    parser.add_argument("--backend", default="auto", help="onnxruntime, openvino or auto")
    parser.add_argument("--flying", type=int, default=16, help="requests in flight (default: 16)")
    chosen = common.start(parser, METHOD)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "repository"
        for name in chosen.models:
            done = export(plan_export(name, repository=repository, backend=chosen.backend))
            common.out.print(f"{name}: {done.manifest.backend} in {done.manifest.precision}")
        with common.serving(repository) as server:
            for name in chosen.models:
                asked = contestants(server.client, name, chosen)
                samples = common.interleave(name, asked, chosen.rounds)
                rows = [
                    (
                        key,
                        common.spread(samples[key], ",.0f"),
                        common.ratio(samples, key, "client decodes"),
                    )
                    for key in asked
                ]
                title = f"{name}, {chosen.flying} requests in flight"
                common.show(title, ("", "images/s", "to 'client decodes'"), rows)
                results.append({"model": name, "unit": "images/s", "samples": samples})
    common.finish(chosen, results)


if __name__ == "__main__":
    main()
