"""A Triton backend named ``onnxruntime``, in Python, for servers without the native one.

It reads these parameters of the native backend, with the same names and values:

* ``intra_op_thread_count``: threads within an operator. 0 or absent is the runtime's default, or
  an equal share of the cores where there are several instances.
* ``inter_op_thread_count``: threads across operators, if ``execution_mode`` is 1.
* ``execution_mode``: 0 runs operators sequentially, 1 in parallel.
"""

import onnxruntime
import triton_python_backend_utils as pb_utils
from batching import BatchedModel, number


class TritonPythonModel(BatchedModel):
    """Runs ``model.onnx`` with ONNX Runtime on the CPU."""

    default_filename = "model.onnx"

    def load(self, path, parameters, threads):
        """Create a session; see the base class."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Idle threads sleep instead of spinning, as the server and its clients need the cores too.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.intra_op_num_threads = number(parameters, "intra_op_thread_count") or threads or 0
        options.inter_op_num_threads = number(parameters, "inter_op_thread_count") or 0
        options.execution_mode = _execution_mode(parameters)
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self._source = self._session.get_inputs()[0].name
        return _shapes(self._session.get_inputs()), _shapes(self._session.get_outputs())

    def run(self, batch, outputs):
        """Run a batch; see the base class."""
        return dict(zip(outputs, self._session.run(outputs, {self._source: batch}), strict=True))

    def finalize(self):
        """Release the session before the process ends."""
        self._session = None


def _execution_mode(parameters):
    modes = (onnxruntime.ExecutionMode.ORT_SEQUENTIAL, onnxruntime.ExecutionMode.ORT_PARALLEL)
    mode = number(parameters, "execution_mode") or 0
    if mode >= len(modes):
        raise pb_utils.TritonModelException(f"parameter execution_mode must be 0 or 1, not {mode}")
    return modes[mode]


def _shapes(tensors):
    return {
        tensor.name: [size if isinstance(size, int) else -1 for size in tensor.shape]
        for tensor in tensors
    }
