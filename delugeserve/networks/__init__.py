"""DelugeNets in PyTorch: as they are trained, and folded as they are served.

The package imports nothing by itself, so that :mod:`delugeserve.networks.flops` stays usable
without torch.
"""
