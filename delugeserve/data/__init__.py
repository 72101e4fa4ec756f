"""Labelled images: reading, decoding, augmentation and batches.

- :mod:`.datasets`: read a split into memory, or list it to be decoded later;
- :mod:`.readers`: one module for each layout on disk;
- :mod:`.streaming`: batches of images that do not fit into memory;
- :mod:`.augmentation` and :mod:`.imagenet`: random crops, flips and colours.

The package imports nothing by itself.
"""
