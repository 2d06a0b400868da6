"""How fast should the weights move now?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from ena24ssd.config import OptimConfig


def learning_rate(config: OptimConfig, step: int, steps: int, epoch_losses: Sequence[float]) -> float:
    """The rate of step number ``step`` (0-based) of ``steps``, after epochs with the given training losses.

    cosine: rises over the first ``warmup`` share of the steps, then falls along half a cosine to 0 at the end.
    plateau: divided by ``plateau_factor`` once for every epoch whose loss was not below the one before.
    """
    if config.schedule == "plateau":
        stalls = sum(later >= earlier for earlier, later in pairwise(epoch_losses))
        return config.lr / config.plateau_factor**stalls
    rising = math.ceil(config.warmup * steps)
    if step < rising:
        return config.lr * (step + 1) / rising
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1)))
