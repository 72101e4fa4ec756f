"""What the Python-based backends share: a whole dynamic batch answered by one inference.

This file goes beside a backend's ``model.py`` in a Triton backend folder, and runs in the model's
own process. It needs NumPy and Triton's Python backend, and nothing of this project::

    cp batching.py onnxruntime/model.py /opt/tritonserver/backends/onnxruntime/
"""

import json
import os
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class BatchedModel:
    """One instance of a model with one input.

    A backend's ``TritonPythonModel`` derives from this and says how to load a model file and how
    to run a batch. Values of ``parameters`` in config.pbtxt that it does not know are left alone,
    as they may be meant for the native backend of the same name.
    """

    #: File of a version folder, where config.pbtxt names none.
    default_filename: str
    #: Number of the instance's GPU, where it has one.
    device: int

    def load(self, path, parameters, threads):
        """Load a model file.

        Args:
            path: the file.
            parameters: string values of ``parameters`` in config.pbtxt.
            threads: threads this instance should use, or None for the runtime's own choice.

        Returns:
            Two dictionaries, of the inputs and of the outputs: shape by name, -1 for an open size.
        """
        raise NotImplementedError

    def run(self, batch, outputs):
        """Run a batch.

        Args:
            batch: ``[N, ...]``, contiguous.
            outputs: names of the outputs that are wanted.

        Returns:
            The arrays by name, each ``[N, ...]``. They may be views of memory that the next run
            overwrites.
        """
        raise NotImplementedError

    def initialize(self, args):
        """Load the model; Triton calls this once for each instance."""
        config = json.loads(args["model_config"])
        self._name = args["model_name"]
        self.device = int(args.get("model_instance_device_id", 0))
        if len(config["input"]) != 1:
            raise pb_utils.TritonModelException(
                f"config.pbtxt must state one input, and states {len(config['input'])}"
            )
        self._input = config["input"][0]["name"]
        self._shape = [int(size) for size in config["input"][0]["dims"]]
        self._batches = config["max_batch_size"] > 0
        parameters = {
            key: value["string_value"] for key, value in config.get("parameters", {}).items()
        }
        path = (
            Path(args["model_repository"])
            / args["model_version"]
            / (config["default_model_filename"] or self.default_filename)
        )
        if not path.is_file():
            raise pb_utils.TritonModelException(
                f"version {args['model_version']} has no {path.name}"
            )
        instances = sum(group["count"] for group in config["instance_group"])
        cores = len(os.sched_getaffinity(0))
        # One instance may as well have the runtime's own default; several must share the cores.
        threads = max(1, cores // instances) if instances > 1 else None
        try:
            inputs, outputs = self.load(path, parameters, threads)
        except pb_utils.TritonModelException:
            raise
        except Exception as error:
            # The last line says it; those before are the runtime's own source positions.
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise pb_utils.TritonModelException(f"{path.name}: {reason[-1]}") from None
        for tensors, wanted in ((inputs, config["input"]), (outputs, config["output"])):
            for tensor in wanted:
                self._compare(tensor["name"], tensor["dims"], tensors)

    def execute(self, requests):
        """Answer the requests that Triton has put together, with one inference for all of them."""
        responses = [None] * len(requests)
        arrays, places, wanted = [], [], set()
        for place, request in enumerate(requests):
            array = pb_utils.get_input_tensor_by_name(request, self._input).as_numpy()
            problem = self._problem(array)
            if problem:
                responses[place] = _refusal(problem)
                continue
            arrays.append(array)
            places.append(place)
            wanted.update(request.requested_output_names())
        if not arrays:
            return responses
        batch = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        try:
            outputs = self.run(batch, sorted(wanted))
        except Exception as error:
            # The cause is for the operator's log; it may hold paths, and no client can act on it.
            pb_utils.Logger.log_error(f"model '{self._name}' failed on a batch: {error!r}")
            for place in places:
                responses[place] = _refusal("the model failed on this input")
            return responses
        start = 0
        for array, place in zip(arrays, places, strict=True):
            stop = start + len(array)
            responses[place] = pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor(name, outputs[name][start:stop])
                    for name in requests[place].requested_output_names()
                ]
            )
            start = stop
        return responses

    def _compare(self, name, dims, tensors):
        """Refuse a configuration that the model file does not bear out."""
        if name not in tensors:
            raise pb_utils.TritonModelException(
                f"config.pbtxt names '{name}', and the model has {sorted(tensors)}"
            )
        shape = tensors[name][1:] if self._batches else tensors[name]
        dims = [int(size) for size in dims]
        if len(shape) != len(dims) or any(
            -1 not in (have, want) and have != want for have, want in zip(shape, dims, strict=True)
        ):
            raise pb_utils.TritonModelException(
                f"config.pbtxt gives '{name}' the shape {dims}, and the model {list(shape)}"
            )

    def _problem(self, array):
        shape = list(array.shape[1:] if self._batches else array.shape)
        if len(shape) == len(self._shape) and all(
            want in (-1, have) for want, have in zip(self._shape, shape, strict=True)
        ):
            return None
        return f"'{self._input}' must have shape {self._shape} after the batch, and has {shape}"


def number(parameters, key):
    """The non-negative whole number under a key of ``parameters``, or None."""
    value = parameters.get(key, "")
    if not value:
        return None
    if not value.isdigit():
        raise pb_utils.TritonModelException(
            f"parameter {key} must be a non-negative number, and is '{value}'"
        )
    return int(value)


def _refusal(problem):
    return pb_utils.InferenceResponse(
        output_tensors=[], error=pb_utils.TritonError(problem, pb_utils.TritonError.INVALID_ARG)
    )
