"""A Triton backend named ``openvino``, in Python, for servers without NVIDIA's native one.

It reads the native backend's parameters, under the same names and with the same values:

* ``HINT_BF16``: YES computes in bfloat16; absent computes in float32 here, where the native
  backend leaves the choice to OpenVINO;
* ``INFERENCE_NUM_THREADS``: a number; absent means OpenVINO's default, or the cores divided among
  the instances where there are several;
* ``NUM_STREAMS``: a number, AUTO or NUMA;
* ``PERFORMANCE_HINT``: LATENCY, THROUGHPUT or CUMULATIVE_THROUGHPUT.
"""

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
        self._places = {
            name: place for place, output in enumerate(compiled.outputs) for name in output.names
        }
        return _shapes(compiled.inputs), _shapes(compiled.outputs)

    def run(self, batch, outputs):
        """Run a batch; see the base class."""
        # Shared: no copy of the batch going in, none of the results coming out.
        results = self._request.infer([batch], share_inputs=True, share_outputs=True)
        return {name: results[self._places[name]] for name in outputs}

    def finalize(self):
        """Let the network go before the process ends."""
        self._request = None


def _shapes(tensors):
    return {
        name: [size.get_length() if size.is_static else -1 for size in tensor.partial_shape]
        for tensor in tensors
        for name in tensor.names
    }


def _settings(parameters, threads):
    settings = {"PERFORMANCE_HINT": parameters.get("PERFORMANCE_HINT", "LATENCY").upper()}
    hint = parameters.get("HINT_BF16", "").upper()
    if hint not in ("", "YES"):
        raise pb_utils.TritonModelException(
            f"parameter HINT_BF16 must be YES or absent, and is '{hint}'"
        )
    settings["INFERENCE_PRECISION_HINT"] = "bf16" if hint else "f32"
    threads = number(parameters, "INFERENCE_NUM_THREADS") or threads
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    if streams := parameters.get("NUM_STREAMS", "").upper():
        settings["NUM_STREAMS"] = streams
    return settings
