"""Which few stand for many?"""

from __future__ import annotations

import numpy as np


def spread_evenly(count: int, sample: int) -> np.ndarray:
    """The places of at most ``sample`` of ``count`` things, evenly spread, first and last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, sample)).round().astype(int))
