"""Base class of the Python-based backends: one inference answers a whole dynamic batch.

This file is copied next to a backend's ``model.py`` into a Triton backend folder, and runs in the
model's process. It needs NumPy and Triton's Python backend, but nothing of this project::

    cp batching.py onnxruntime/model.py /opt/tritonserver/backends/onnxruntime/
"""

import json
import os
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class BatchedModel:
    """One instance of a model with one input.

    A backend's ``TritonPythonModel`` derives from this class, and implements how to load a model
    file and how to run a batch. Unknown ``parameters`` in config.pbtxt are ignored, as they may be
    meant for the native backend of the same name.
    """

    #: File in the version folder to load if config.pbtxt names none.
    default_filename: str
    #: Number of the instance's GPU, if it has one.
    device: int

    def load(self, path, parameters, threads):
        """Load a model file.

        Args:
            path: the file.
            parameters: string values of ``parameters`` in config.pbtxt.
            threads: number of threads for this instance; None for the runtime's default.

        Returns:
            Shapes by name of the inputs, and of the outputs, with -1 for a variable size.
        """
        raise NotImplementedError

    def run(self, batch, outputs):
        """Run a batch.

        Args:
            batch: ``[N, ...]``, contiguous.
            outputs: names of the wanted outputs.

        Returns:
            Arrays by name, each ``[N, ...]``. The next run may overwrite them.
        """
        raise NotImplementedError

    def initialize(self, args):
        """Load the model; Triton calls this once for each instance."""
        config = json.loads(args["model_config"])
        self._name = args["model_name"]
        self.device = int(args.get("model_instance_device_id", 0))
        if len(config["input"]) != 1:
            raise pb_utils.TritonModelException(
                f"config.pbtxt must have one input, not {len(config['input'])}"
            )
        self._input = config["input"][0]["name"]
        self._shape = [int(size) for size in config["input"][0]["dims"]]
        self._exact = tuple(self._shape)
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
        instances *= int(os.environ.get("DELUGESERVE_SERVERS", 1))  # that answer side by side
        cores = len(os.sched_getaffinity(0))
        # A single instance uses the runtime's default; several share the cores.
        threads = max(1, cores // instances) if instances > 1 else None
        try:
            inputs, outputs = self.load(path, parameters, threads)
        except pb_utils.TritonModelException:
            raise
        except Exception as error:
            # The last line is the message; those before are positions in the runtime's code.
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise pb_utils.TritonModelException(f"{path.name}: {reason[-1]}") from None
        for tensors, wanted in ((inputs, config["input"]), (outputs, config["output"])):
            for tensor in wanted:
                self._check_tensor(tensor["name"], tensor["dims"], tensors)

    def execute(self, requests):
        """Answer the requests of a dynamic batch with one inference."""
        responses = [None] * len(requests)
        arrays, asked, wanted = [], [], set()
        for index, request in enumerate(requests):
            array = pb_utils.get_input_tensor_by_name(request, self._input).as_numpy()
            problem = self._problem(array)
            if problem:
                responses[index] = _refusal(problem)
                continue
            names = request.requested_output_names()
            arrays.append(array)
            asked.append((index, names))
            wanted.update(names)
        if not arrays:
            return responses
        batch = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        try:
            outputs = self.run(batch, sorted(wanted))
        except Exception as error:
            # The cause goes to the server's log only: it may contain paths.
            pb_utils.Logger.log_error(f"model '{self._name}' failed on a batch: {error!r}")
            for index, _ in asked:
                responses[index] = _refusal("the model failed on this input")
            return responses
        start = 0
        for array, (index, names) in zip(arrays, asked, strict=True):
            stop = start + len(array)
            responses[index] = pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, outputs[name][start:stop]) for name in names]
            )
            start = stop
        return responses

    def _check_tensor(self, name, dims, tensors):
        """Raise if an input or output of config.pbtxt is not that of the model file."""
        if name not in tensors:
            raise pb_utils.TritonModelException(
                f"config.pbtxt names '{name}', but the model has {sorted(tensors)}"
            )
        shape = tensors[name][1:] if self._batches else tensors[name]
        dims = [int(size) for size in dims]
        if len(shape) != len(dims) or any(
            -1 not in (have, want) and have != want for have, want in zip(shape, dims, strict=True)
        ):
            raise pb_utils.TritonModelException(
                f"'{name}' has shape {dims} in config.pbtxt, but {list(shape)} in the model"
            )

    def _problem(self, array):
        if self._batches and array.shape[1:] == self._exact:
            return None
        shape = list(array.shape[1:] if self._batches else array.shape)
        if len(shape) == len(self._shape) and all(
            want in (-1, have) for want, have in zip(self._shape, shape, strict=True)
        ):
            return None
        return f"'{self._input}' must have shape {self._shape} after the batch, not {shape}"


def number(parameters, key):
    """Return a parameter as a non-negative integer; None if it is absent."""
    value = parameters.get(key, "")
    if not value:
        return None
    if not value.isdigit():
        raise pb_utils.TritonModelException(
            f"parameter {key} must be a non-negative integer, not '{value}'"
        )
    return int(value)


def _refusal(problem):
    return pb_utils.InferenceResponse(
        output_tensors=[], error=pb_utils.TritonError(problem, pb_utils.TritonError.INVALID_ARG)
    )
