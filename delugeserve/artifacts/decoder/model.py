"""A Triton model that decodes images: encoded files in, a network's uint8 input out.

``delugeserve export`` copies this file into a version of a model's decoder, beside the modules of
the client's preprocessing. It runs in Triton's Python backend and needs NumPy and Pillow, and for
HEIC images pillow-heif, but nothing of this project.
"""

import contextlib
import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import Image

sys.dont_write_bytecode = True  # the model repository may be shared, and is not a cache
sys.path.insert(0, str(Path(__file__).parent))

from delugeserve_client.errors import ImageError  # noqa: E402
from delugeserve_client.preprocessing import Preprocessing, decode  # noqa: E402

# Larger images are decoded one at a time, as each may take a gigabyte of memory.
_LARGE = 2**25  # pixels
_WHITE = b"P6 1 1 255\n\xff\xff\xff"  # the smallest image there is: a PPM of one pixel


class TritonPythonModel:
    """One instance of the decoder; it decodes the images of a batch in parallel."""

    def initialize(self, args):
        """Read the settings; Triton calls this once for each instance."""
        config = json.loads(args["model_config"])
        self._outputs = {output["name"] for output in config["output"]}
        self._preprocessing = _read_preprocessing(config)
        self._black = self._preprocessing(Image.new("RGB", (1, 1)))
        self._large = threading.Lock()
        instances = sum(group["count"] for group in config["instance_group"])
        threads = max(1, len(os.sched_getaffinity(0)) // instances)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._decode(_WHITE, "the image")  # loads Pillow's decoders

    def execute(self, requests):
        """Decode the images of all requests.

        An image that cannot be decoded fails its own request. With the request's parameter
        ``on_error`` as ``return``, it is black instead, and the output ``error`` says why.
        """
        batches = [
            pb_utils.get_input_tensor_by_name(request, "encoded").as_numpy().reshape(-1)
            for request in requests
        ]
        jobs = [
            (content, "the image" if len(batch) == 1 else f"image {number}")
            for batch in batches
            for number, content in enumerate(batch, start=1)
        ]
        run = map if self._pool is None or len(jobs) == 1 else self._pool.map
        results = run(self._try, jobs)
        return [
            self._respond(request, [next(results) for _ in batch])
            for request, batch in zip(requests, batches, strict=True)
        ]

    def finalize(self):
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _try(self, job):
        """Return an image's pixels, or why it cannot be decoded, as a sentence."""
        try:
            return self._decode(*job)
        except ImageError as error:
            return f"{error.problem} {error.remedy}"
        except Exception as error:
            # The cause goes to the server's log only: it may contain paths.
            pb_utils.Logger.log_error(f"an image cannot be decoded: {error!r}")
            return "The image cannot be decoded. Convert it to JPEG or PNG."

    def _decode(self, content, source):
        with contextlib.ExitStack() as stack:

            def scale(width, height):
                if width * height > _LARGE:
                    stack.enter_context(self._large)
                return self._preprocessing.scale(width, height)

            return self._preprocessing.fit(decode(content, source, scale))

    def _respond(self, request, results):
        on_error = json.loads(request.parameters() or "{}").get("on_error", "raise")
        if on_error not in ("raise", "return"):
            return _refusal("The parameter on_error is neither 'raise' nor 'return'.")
        problems = [result for result in results if isinstance(result, str)]
        if problems and on_error == "raise":
            more = f" {len(problems) - 1} more cannot be read either." * (len(problems) > 1)
            return _refusal(problems[0] + more)
        errors = [result if isinstance(result, str) else "" for result in results]
        pixels = [self._black if isinstance(result, str) else result for result in results]
        arrays = {
            "image": np.stack(pixels),
            "error": np.array([[error] for error in errors], np.object_),
        }
        return pb_utils.InferenceResponse(
            output_tensors=[
                pb_utils.Tensor(name, array)
                for name, array in arrays.items()
                if name in self._outputs
            ]
        )


def _refusal(problem):
    error = pb_utils.TritonError(problem, pb_utils.TritonError.INVALID_ARG)
    return pb_utils.InferenceResponse(output_tensors=[], error=error)


def _read_preprocessing(config):
    parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
    (image,) = (output for output in config["output"] if output["name"] == "image")
    height, width, _ = map(int, image["dims"])
    try:
        preprocessing = Preprocessing(
            height, width, int(parameters["resize_size"]), parameters["interpolation"]
        )
        expected = parameters["preprocessing"]
    except (KeyError, ValueError):
        raise pb_utils.TritonModelException(
            "config.pbtxt needs the parameters resize_size, interpolation and preprocessing"
        ) from None
    if preprocessing.digest != expected:
        raise pb_utils.TritonModelException(
            f"the model was exported for the preprocessing {expected}, but this decoder's is "
            f"{preprocessing.digest}. Export the model again."
        )
    return preprocessing
