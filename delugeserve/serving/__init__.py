"""Finding, starting and stopping a Triton Inference Server."""
