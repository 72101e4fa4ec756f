"""What a user chooses about training images, as values: without torch, for the command line."""

from __future__ import annotations

from typing import Literal

Flip = Literal["random", "alternating", "none"]
"""Which images are mirrored; the type of ``--flip``.

``random`` mirrors each image with probability 0.5; ``alternating`` mirrors each image in every
second epoch, and draws once for each image which epoch is the first.
"""

Sampling = Literal["natural", "balanced"]
"""Which images an epoch has; the type of ``--sampling``.

``natural`` has each image once; ``balanced`` has as many in all, but equally many of each class.
"""

ClassWeights = Literal["none", "balanced"]
"""The classes' weights in the loss; the type of ``--class-weights``.

``balanced`` weights are inversely proportional to a class's number of images.
"""
VAL_FRACTION = 0.1
"""The part of the training images that serves as validation split, if nobody says otherwise."""


Policy = Literal["none", "randaugment", "trivial"]
"""Random operations on colour and geometry; the type of ``--augment``."""
