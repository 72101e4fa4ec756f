"""A Triton backend named ``openvino``, in Python.

It is used also where Triton has a native OpenVINO backend, as config.pbtxt says
``runtime: "model.py"``. It reads these parameters:

* ``HINT_BF16``: YES computes in bfloat16; absent computes in float32.
* ``INFERENCE_NUM_THREADS``: a number. 0 or absent is one a core, or an equal share of the cores
  where there are several instances.
* ``NUM_STREAMS``: most parts of a batch that run at once, a number; AUTO, NUMA or absent is one a
  thread.
* ``PERFORMANCE_HINT``: LATENCY, THROUGHPUT or CUMULATIVE_THROUGHPUT.
* ``ENABLE_CPU_PINNING``: YES or NO, which is the default: OpenVINO pins the threads of every
  instance and process to the same cores.
"""

import openvino
import triton_python_backend_utils as pb_utils
from batching import BatchedModel, number
from openvino_engine import Engine


class TritonPythonModel(BatchedModel):
    """Runs ``model.xml`` with OpenVINO on the CPU."""

    default_filename = "model.xml"

    def load(self, path, parameters, threads):
        """Compile the model; see the base class."""
        streams = parameters.get("NUM_STREAMS", "").upper()
        self._engine = Engine(
            openvino.Core(),
            path,
            _settings(parameters),
            number(parameters, "INFERENCE_NUM_THREADS") or threads,
            None if streams in ("AUTO", "NUMA") else number(parameters, "NUM_STREAMS"),
        )
        return self._engine.inputs, self._engine.outputs

    def run(self, batch, outputs):
        """Run a batch; see the base class."""
        return self._engine.run(batch, outputs)

    def finalize(self):
        """Release the model before the process ends."""
        self._engine = None


def _settings(parameters):
    settings = {
        "PERFORMANCE_HINT": parameters.get("PERFORMANCE_HINT", "LATENCY").upper(),
        "INFERENCE_PRECISION_HINT": "bf16" if _choice(parameters, "HINT_BF16", "YES") else "f32",
    }
    if pinning := _choice(parameters, "ENABLE_CPU_PINNING", "YES", "NO"):
        settings["ENABLE_CPU_PINNING"] = pinning == "YES"
    return settings


def _choice(parameters, key, *known):
    """Return the value of a parameter in upper case; empty if it is absent."""
    value = parameters.get(key, "").upper()
    if value and value not in known:
        raise pb_utils.TritonModelException(
            f"parameter {key} must be {' or '.join(known)}, not '{value}'"
        )
    return value
