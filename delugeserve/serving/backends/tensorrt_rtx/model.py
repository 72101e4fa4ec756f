"""A Triton backend named ``tensorrt_rtx``, in Python, which has no native counterpart.

It runs a plan on the GPU of its instance, and needs the modules ``tensorrt_rtx`` and
``cuda.bindings``.
"""

import tensorrt_rtx
from batching import BatchedModel
from tensorrt_engine import Engine


class TritonPythonModel(BatchedModel):
    """Runs ``model.plan`` with TensorRT-RTX."""

    default_filename = "model.plan"

    def load(self, path, parameters, threads):
        """Load the plan; see the base class."""
        self._engine = Engine(tensorrt_rtx, path, self.device)
        return self._engine.inputs, self._engine.outputs

    def run(self, batch, outputs):
        """Run a batch; see the base class."""
        return self._engine.run(batch, outputs)

    def finalize(self):
        """Free the GPU's memory."""
        self._engine.close()
