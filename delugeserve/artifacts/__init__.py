"""Files on disk, without torch: checkpoints, ONNX files, plans, manifests, model repositories."""
