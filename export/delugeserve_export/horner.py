"""Horner's scheme for a weighted sum: one chain, of which a runtime can fuse several links.

    w0 h0 + w1 h1 + w2 h2  =  ((h0 * w0/w1 + h1) * w1/w2 + h2) * w2

A sum of products is a tree, and OpenVINO 2026.4 takes a pass over memory for each of its terms. Of
a chain it fuses what one kernel's seven inputs can hold, which is three terms and more.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

EPSILON = float(np.finfo(np.float32).eps)


def factors(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the sum so far is multiplied by, after each term.

    No weight may be zero, as the next divides by it: those of less than :data:`EPSILON` times their
    channel's largest are raised to that. A folded weight may be small because its term is large,
    so what is raised must be too small to count even then: with this epsilon a term a thousand
    times as large as the others still changes the sum by a ten-thousandth only.

    The sum so far has been divided by the next weight, so it may be ``1 / EPSILON``, eight million,
    times as large as the terms. float32 and bfloat16 hold that as exactly as anything else; float16
    ends at 65504.

    Args:
        weight: float32 ``[L, C]``, the weights of L terms.

    Returns:
        float32 ``[L, C]``: ratios of neighbouring weights, and then the last weight itself.
    """
    exact = weight.astype(np.float64)
    least = EPSILON * np.abs(exact).max(axis=0)
    raised = np.where(np.abs(exact) < least, np.copysign(least, exact), exact)
    # A channel without any weight stays without.
    following = np.concatenate([np.where(raised == 0, 1, raised)[1:], np.ones_like(raised[:1])])
    chain: NDArray[np.float32] = (raised / following).astype(np.float32)
    return chain
