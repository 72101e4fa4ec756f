"""A Triton backend named ``openvino``, in Python.

It is used also where Triton has a native OpenVINO backend, as config.pbtxt says
``runtime: "model.py"``. It reads these parameters:

* ``HINT_BF16``: YES computes in bfloat16; absent computes in float32.
* ``INFERENCE_NUM_THREADS``: a number. 0 or absent is OpenVINO's default, or an equal share of the
  cores where there are several instances.
* ``NUM_STREAMS``: a number, AUTO or NUMA.
* ``PERFORMANCE_HINT``: LATENCY, THROUGHPUT or CUMULATIVE_THROUGHPUT.
* ``ENABLE_CPU_PINNING``: YES or NO. Absent pins threads to cores only if the instance has all the
  cores: OpenVINO pins the threads of every instance and process to the same cores.
"""

import os

import openvino
import triton_python_backend_utils as pb_utils
from batching import BatchedModel, number


class TritonPythonModel(BatchedModel):
    """Runs ``model.xml`` with OpenVINO on the CPU."""

    default_filename = "model.xml"

    def load(self, path, parameters, threads):
        """Compile the model; see the base class."""
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(path), "CPU", _settings(parameters, threads))
        self._request = compiled.create_infer_request()
        self._indices = {
            name: index for index, output in enumerate(compiled.outputs) for name in output.names
        }
        return _shapes(compiled.inputs), _shapes(compiled.outputs)

    def run(self, batch, outputs):
        """Run a batch; see the base class."""
        # Sharing avoids a copy of the inputs and of the results.
        results = self._request.infer([batch], share_inputs=True, share_outputs=True)
        return {name: results[self._indices[name]] for name in outputs}

    def finalize(self):
        """Release the model before the process ends."""
        self._request = None


def _shapes(tensors):
    return {
        name: [size.get_length() if size.is_static else -1 for size in tensor.partial_shape]
        for tensor in tensors
        for name in tensor.names
    }


def _settings(parameters, threads):
    settings = {
        "PERFORMANCE_HINT": parameters.get("PERFORMANCE_HINT", "LATENCY").upper(),
        "INFERENCE_PRECISION_HINT": "bf16" if _choice(parameters, "HINT_BF16", "YES") else "f32",
    }
    threads = number(parameters, "INFERENCE_NUM_THREADS") or threads
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    pinning = _choice(parameters, "ENABLE_CPU_PINNING", "YES", "NO")
    if pinning:
        settings["ENABLE_CPU_PINNING"] = pinning == "YES"
    elif threads and threads < len(os.sched_getaffinity(0)):
        settings["ENABLE_CPU_PINNING"] = False
    if streams := parameters.get("NUM_STREAMS", "").upper():
        settings["NUM_STREAMS"] = streams
    return settings


def _choice(parameters, key, *known):
    """Return the value of a parameter in upper case; empty if it is absent."""
    value = parameters.get(key, "").upper()
    if value and value not in known:
        raise pb_utils.TritonModelException(
            f"parameter {key} must be {' or '.join(known)}, not '{value}'"
        )
    return value
