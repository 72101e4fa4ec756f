"""The exporter: checkpoint -> ONNX -> engine -> Triton model repository."""
