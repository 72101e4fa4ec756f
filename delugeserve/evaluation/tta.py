"""Test-time augmentation: an image is classified in several views."""

from typing import Literal

Tta = Literal["flip"]
"""What is averaged. ``flip``: the logits of an image and of its mirror image."""
