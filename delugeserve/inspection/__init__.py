"""What lies in a file or folder: checkpoints, ONNX graphs, plans, versions and repositories.

Nothing here loads weights, and nothing imports torch. Each module reads one kind of artefact, ours
or not, into a frozen dataclass of plain values.
"""
