"""How fast should the weights move now?

A pure function of the step and of the losses so far: a resumed run asks it again and gets the same rates to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from ena24ssd.config import OptimConfig
from ena24ssd.stages import stage_of


def learning_rate(
    config: OptimConfig, step: int, steps_per_epoch: int, epochs: int, epoch_losses: Sequence[float]
) -> float:
    """The rate of one step: a share of it is that of the backbone (`ena24ssd.stages.rate_of`).

    Parameters: ``step``, counted from 0 at the start of the run; ``epochs``, how many are planned; ``epoch_losses``,
    the training loss of every finished epoch, ``step // steps_per_epoch`` of them.

    Each stage has a schedule of its own, with its own peak, over its own steps and losses: what follows is about those.

    constant, step and cosine look at the steps alone. Over the first ``warmup`` share of them the rate rises; then
    it stays; or is divided at every share of ``step_at``; or falls along half a cosine to 0 at the end.

    plateau and divide_when_loss_rises look at the losses. plateau: divided once whenever ``plateau_patience`` epochs in
    a row brought no new lowest loss; counting then starts anew. divide_when_loss_rises is the post's rule as it stands:
    where the last loss is not below the one before, divided before every step of the epoch. A loss that is not a
    number is no progress to the one, and no rise to the other.

    Returns a finite rate, 0 or above.
    """
    stage = stage_of(config, step // steps_per_epoch, epochs)
    step -= stage.first * steps_per_epoch
    losses = epoch_losses[stage.first :]
    if config.schedule == "plateau":
        return _divide(stage.lr, config.divide_by, _stalls(losses, config.plateau_patience))
    if config.schedule == "divide_when_loss_rises":
        rises = [later >= earlier for earlier, later in pairwise(losses)]
        times = steps_per_epoch * sum(rises[:-1])  # in epochs that are over; the last rise rules the one under way
        times += (step % steps_per_epoch + 1) * sum(rises[-1:])
        return _divide(stage.lr, config.divide_by, times)
    steps = steps_per_epoch * stage.epochs
    rising = math.ceil(config.warmup * steps)
    if step < rising:
        return stage.lr * (step + 1) / rising
    if config.schedule == "constant":
        return stage.lr
    if config.schedule == "step":
        return _divide(stage.lr, config.divide_by, sum(step / steps >= share for share in config.step_at))
    return stage.lr * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1)))


def _stalls(losses: Sequence[float], patience: int) -> int:
    """How often ``patience`` losses in a row were not below all before them."""
    stalls, waited, lowest = 0, 0, math.inf
    for loss in losses:
        if loss < lowest:
            lowest, waited = loss, 0
        else:
            waited += 1
            if waited == patience:
                stalls, waited = stalls + 1, 0
    return stalls


def _divide(rate: float, by: float, times: int) -> float:
    """Divided again and again, as the post does it: a power of ``by`` would overflow before the rate underflows."""
    for _ in range(times):
        less = rate / by
        if less == rate:  # 0, or the smallest number there is
            break
        rate = less
    return rate
