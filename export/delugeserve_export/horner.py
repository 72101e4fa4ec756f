"""Horner's scheme for a weighted sum: a chain, of which a runtime can fuse several steps.

    w0 h0 + w1 h1 + w2 h2  =  ((h0 * w0/w1 + h1) * w1/w2 + h2) * w2

A sum of products is a tree, for which OpenVINO 2026.4 makes a pass over memory per term. Of a chain
it fuses three terms or more into one kernel, as many as its seven inputs can hold.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

EPSILON = float(np.finfo(np.float32).eps)


def factors(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the factors that the sum so far is multiplied by, after each term.

    Each factor divides by the next weight, so weights below :data:`EPSILON` times the largest of
    their channel are raised to that. A folded weight may be small because its term is large, so the
    change must be negligible even then: with this epsilon, a term a thousand times as large as the
    others changes the sum by a ten-thousandth.

    The sum so far may be up to ``1 / EPSILON``, eight million, times as large as the terms. float32
    and bfloat16 represent that with their usual relative precision; the maximum of float16 is
    65504.

    Args:
        weight: weights of L terms, float32 ``[L, C]``.

    Returns:
        float32 ``[L, C]``: the ratios of neighbouring weights, then the last weight.
    """
    exact = weight.astype(np.float64)
    least = EPSILON * np.abs(exact).max(axis=0)
    raised = np.where(np.abs(exact) < least, np.copysign(least, exact), exact)
    # A channel whose weights are all zero keeps them.
    following = np.concatenate([np.where(raised == 0, 1, raised)[1:], np.ones_like(raised[:1])])
    chain: NDArray[np.float32] = (raised / following).astype(np.float32)
    return chain
