"""When is an epoch the best, and when is it enough?"""

from __future__ import annotations

import pytest

from ena24ssd.config import read_config
from ena24ssd.learning import judge, reason_to_end
from ena24ssd.runs import Standing


def judged(scores) -> Standing:
    standing = Standing(sums=(1.0, 2.0))
    for score in scores:
        standing = judge(standing, 1.0, score)
    return standing


@pytest.mark.parametrize(
    "scores, best, risen",
    [
        ([None, None], 1, None),
        ([0.1, 0.3, 0.2], 1, 1),
        ([0.1, 0.3, 0.3], 2, 1),
        ([0.0, 0.0, 0.0], 2, 0),
        ([0.3, 0.2, 0.1], 0, 0),
    ],
    ids=["nothing measured", "a rise and a fall", "a tie: the later one is kept", "nothing ever found", "only falls"],
)
def test_the_best_epoch_is_the_last_of_the_best_and_a_tie_is_no_rise(scores, best, risen):
    standing = judged(scores)
    assert (standing.best_epoch, standing.risen_epoch) == (best, risen)
    assert standing.epoch == len(scores) == len(standing.losses) and standing.step == 0 and standing.sums == (0.0, 0.0)


@pytest.mark.parametrize(
    "scores, choices, reason",
    [
        ([0.1], [], None),
        ([0.1, 0.2, 0.3], [], "3 epochs are done"),
        ([0.0, 0.0], ["train.patience=1"], "no better validation mAP for 1 epochs"),
        ([0.1, 0.2], ["train.patience=1"], None),
        ([None, None], ["train.patience=1"], None),
    ],
    ids=["more to do", "all epochs", "a score that does not rise", "one that does", "no validation"],
)
def test_training_ends_for_a_reason(scores, choices, reason):
    config = read_config(overrides=["train.epochs=3", *choices])
    found = reason_to_end(config, judged(scores))
    assert found is None if reason is None else found.startswith(reason)


def test_time_counts_over_all_sittings():
    config = read_config(overrides=["train.max_minutes=2"])
    assert reason_to_end(config, Standing(seconds=119.0)) is None
    assert reason_to_end(config, Standing(seconds=121.0)).startswith("2 minutes are over")
