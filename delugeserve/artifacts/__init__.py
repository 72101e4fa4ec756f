"""What lies on disk: checkpoints, graphs, plans, manifests and model repositories; torch-free."""
