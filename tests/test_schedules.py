"""How fast do the weights move at each step?"""

from __future__ import annotations

from itertools import pairwise

import pytest

from ena24ssd.config import OptimConfig
from ena24ssd.schedules import learning_rate


def rates(steps=100, losses=(), **choice):
    config = OptimConfig(lr=0.1, **choice)
    return [learning_rate(config, step, steps, losses) for step in range(steps)]


def test_cosine_rises_over_the_warm_up_and_falls_towards_zero():
    rate = rates(schedule="cosine", warmup=0.1)
    assert rate[0] == pytest.approx(0.01) and rate[9] == rate[10] == pytest.approx(0.1)
    assert all(a > b for a, b in pairwise(rate[10:])) and 0 < rate[-1] < 1e-4
    assert rate[55] == pytest.approx(0.05)


def test_constant_stays_after_the_warm_up():
    assert set(rates(schedule="constant", warmup=0)) == {0.1}
    assert rates(schedule="constant", warmup=0.02)[:3] == pytest.approx([0.05, 0.1, 0.1])


@pytest.mark.parametrize(
    "losses, divided",
    [((), 0), ((5,), 0), ((5, 4, 3), 0), ((5, 6), 1), ((5, 5), 1), ((5, 6, 7), 2), ((5, 6, 4), 1)],
)
def test_plateau_divides_once_for_every_epoch_that_did_not_improve(losses, divided):
    assert set(rates(schedule="plateau", losses=losses)) == {0.1 / 5**divided}


def test_a_single_step_has_a_rate():
    assert rates(steps=1, schedule="cosine", warmup=0) == [0.1]
