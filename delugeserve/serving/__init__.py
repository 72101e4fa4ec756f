"""Start, watch and stop a Triton Inference Server."""
