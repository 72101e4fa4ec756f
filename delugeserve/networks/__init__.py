"""DelugeNets in PyTorch: the training form, the folded inference form, and their checkpoints.

The package imports nothing by itself, so that :mod:`delugeserve.networks.flops` works without
torch.
"""
