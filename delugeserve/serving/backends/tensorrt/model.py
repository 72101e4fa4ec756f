"""A Triton backend named ``tensorrt``, in Python, for servers without the native one.

It runs a plan on the GPU of its instance, and needs the modules ``tensorrt`` and
``cuda.bindings``.
"""

import tensorrt
from batching import BatchedModel
from tensorrt_engine import Engine


class TritonPythonModel(BatchedModel):
    """Runs ``model.plan`` with TensorRT."""

    default_filename = "model.plan"

    def load(self, path, parameters, threads):
        """Load the plan; see the base class."""
        self._engine = Engine(tensorrt, path, self.device)
        return self._engine.inputs, self._engine.outputs

    def run(self, batch, outputs):
        """Run a batch; see the base class."""
        return self._engine.run(batch, outputs)

    def finalize(self):
        """Free the GPU's memory."""
        self._engine.close()
