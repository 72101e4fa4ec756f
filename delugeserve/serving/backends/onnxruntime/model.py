"""A Triton backend named ``onnxruntime``, in Python, for servers without NVIDIA's native one.

It reads the parameters of the native backend that matter on a CPU, under the same names:

* ``intra_op_thread_count``: threads within an operator; 0 or absent means the runtime's default,
  or the cores divided among the instances where there are several;
* ``inter_op_thread_count``: threads across operators, where ``execution_mode`` is 1;
* ``execution_mode``: 0 runs operators one after another, 1 side by side.
"""

import onnxruntime
from batching import BatchedModel, number


class TritonPythonModel(BatchedModel):
    """Runs ``model.onnx`` with ONNX Runtime on the CPU."""

    default_filename = "model.onnx"

    def load(self, path, parameters, threads):
        """Open a session; see the base class."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Idle threads sleep rather than spin: the server and its clients need the cores as well.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.intra_op_num_threads = number(parameters, "intra_op_thread_count") or threads or 0
        options.inter_op_num_threads = number(parameters, "inter_op_thread_count") or 0
        if number(parameters, "execution_mode"):
            options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self._source = self._session.get_inputs()[0].name
        return _shapes(self._session.get_inputs()), _shapes(self._session.get_outputs())

    def run(self, batch, outputs):
        """Run a batch; see the base class."""
        return dict(zip(outputs, self._session.run(outputs, {self._source: batch}), strict=True))

    def finalize(self):
        """Let the session go before the process ends."""
        self._session = None


def _shapes(tensors):
    return {
        tensor.name: [size if isinstance(size, int) else -1 for size in tensor.shape]
        for tensor in tensors
    }
