"""How fast do the weights move at each step?"""

from __future__ import annotations

import math
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ena24ssd.config import OptimConfig
from ena24ssd.schedules import learning_rate

SCHEDULES = ("constant", "step", "cosine", "plateau", "divide_when_loss_rises")
NAN = math.nan


def rates(losses=(), *, steps=10, epochs=10, **choice):
    """The rates of an epoch's steps: of the first, or of the one after the given losses."""
    config = OptimConfig(**{"lr": 0.1} | choice)
    first = steps * len(losses)
    return [learning_rate(config, first + step, steps, epochs, losses) for step in range(steps)]


def whole_run(steps=10, epochs=10, loss=1.0, **choice):
    """Every rate of a run, each epoch of which ends with the same loss."""
    return [rate for done in range(epochs) for rate in rates([loss] * done, steps=steps, epochs=epochs, **choice)]


def post_rates(lr, losses, steps):
    """The post's loop (lines 2200 to 2215), less what it trains: the rates of the epoch after the given losses."""
    so_far = []
    for loss in [*losses, None]:
        taken = []
        for _ in range(steps):
            if len(so_far) >= 2 and so_far[-1] >= so_far[-2]:
                lr = lr / 5
            taken.append(lr)
        so_far.append(loss)
    return taken


# -- by the steps alone ------------------------------------------------------------------------------------------------


def test_cosine_rises_over_the_warm_up_and_falls_towards_zero():
    rate = whole_run(schedule="cosine", warmup=0.1)
    assert rate[0] == pytest.approx(0.01) and rate[9] == rate[10] == pytest.approx(0.1)
    assert all(a > b for a, b in pairwise(rate[10:])) and 0 < rate[-1] < 1e-4
    assert rate[55] == pytest.approx(0.05)


@pytest.mark.parametrize("steps, epochs, lr, warmup", [(65, 9, 0.004, 0.03), (7, 3, 0.1, 0.0), (3, 100, 0.002, 0.5)])
def test_cosine_is_to_the_bit_what_the_published_figures_were_made_with(steps, epochs, lr, warmup):
    total = steps * epochs
    rising = math.ceil(warmup * total)
    expected = [lr * (step + 1) / rising for step in range(rising)]
    expected += [
        lr * 0.5 * (1 + math.cos(math.pi * (step - rising) / (total - rising))) for step in range(rising, total)
    ]
    assert whole_run(steps, epochs, lr=lr, warmup=warmup, schedule="cosine") == expected


def test_constant_stays_after_the_warm_up():
    assert set(whole_run(schedule="constant", warmup=0)) == {0.1}
    assert whole_run(schedule="constant", warmup=0.02)[:3] == pytest.approx([0.05, 0.1, 0.1])


@pytest.mark.parametrize(
    "step_at, changes",
    [
        pytest.param((), {}, id="no shares, no change"),
        pytest.param((0.6, 0.85), {60: 0.05, 85: 0.025}, id="each share halves once"),
        pytest.param((0.85, 0.6), {60: 0.05, 85: 0.025}, id="the order of the shares does not matter"),
        pytest.param((0.07, 0.29), {7: 0.05, 29: 0.025}, id="shares that binary numbers miss by a hair"),
        pytest.param((0.5, 0.5), {50: 0.025}, id="a share given twice divides twice"),
        pytest.param((0.505,), {51: 0.05}, id="a share between two steps"),
    ],
)
def test_step_divides_at_each_share_of_the_steps(step_at, changes):
    rate = whole_run(schedule="step", warmup=0, divide_by=2, step_at=step_at)
    assert {step + 1: b for step, (a, b) in enumerate(pairwise(rate)) if a != b} == changes
    assert rate[0] == 0.1


def test_step_warms_up_too():
    assert whole_run(schedule="step", warmup=0.02)[:3] == pytest.approx([0.05, 0.1, 0.1])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_of_a_single_step_has_a_rate(schedule):
    assert whole_run(steps=1, epochs=1, schedule=schedule, warmup=0) == [0.1]


# -- by the losses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "patience, losses, divided",
    [
        pytest.param(1, [], 0, id="nothing finished"),
        pytest.param(1, [5], 0, id="the first loss is the lowest so far"),
        pytest.param(1, [5, 4, 3], 0, id="falling"),
        pytest.param(1, [5, 6], 1, id="risen"),
        pytest.param(1, [5, 5], 1, id="as before is not lower"),
        pytest.param(1, [5, 6, 7], 2, id="once an epoch"),
        pytest.param(1, [5, 6, 4], 1, id="a new lowest afterwards gives nothing back"),
        pytest.param(1, [5, 7, 6], 2, id="fallen, but not to a new lowest"),
        pytest.param(2, [5, 6], 0, id="patient"),
        pytest.param(2, [5, 6, 7], 1, id="patience at its end"),
        pytest.param(2, [5, 6, 7, 8], 1, id="and counted anew"),
        pytest.param(2, [5, 6, 7, 8, 9], 2, id="and at its end again"),
        pytest.param(2, [5, 6, 4, 6, 3, 6], 0, id="every new lowest starts the count anew"),
        pytest.param(3, [5, 6, 6, 4, 6, 6, 6], 1, id="three in a row"),
        pytest.param(1, [5, NAN, 4], 1, id="no number is no progress"),
        pytest.param(1, [NAN, 5, 4], 1, id="not even as the first"),
        pytest.param(1, [NAN, NAN], 2, id="nor twice"),
        pytest.param(1, [5, math.inf], 1, id="infinite"),
    ],
)
def test_plateau_divides_once_when_patience_ends(patience, losses, divided):
    expected = 0.1
    for _ in range(divided):
        expected /= 5
    assert set(rates(losses, schedule="plateau", plateau_patience=patience)) == {expected}


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param([], id="the first epoch"),
        pytest.param([5], id="one loss compares with none"),
        pytest.param([5, 4, 3], id="falling"),
        pytest.param([5, 6], id="risen"),
        pytest.param([5, 5], id="as before"),
        pytest.param([5, 6, 4], id="risen, then fallen: divided no more, and nothing given back"),
        pytest.param([5, 6, 4, 4, 3, 7], id="three times"),
        pytest.param([5, 6, 5.5], id="below the one before is enough"),
        pytest.param([5, NAN, 4], id="no number is no rise"),
        pytest.param([5] * 300, id="long since zero"),
    ],
)
@pytest.mark.parametrize("steps", [1, 4, 100])
def test_the_posts_rule_is_to_the_bit_what_its_loop_does(losses, steps):
    assert rates(losses, steps=steps, lr=0.01, schedule="divide_when_loss_rises") == post_rates(0.01, losses, steps)


def test_the_posts_rule_ends_training_for_good_after_461_of_878_steps():
    choice = {"steps": 878, "epochs": 50, "lr": 0.01, "schedule": "divide_when_loss_rises"}  # as configs/blog.yaml
    rate = rates([1.39, 1.39], **choice)
    assert rate[0] == 0.01 / 5
    assert rate.index(0.0) + 1 == 461 and not any(rate[460:])
    assert not any(rates([1.39, 1.39, 1.0, 0.5], **choice)), "no loss ever brings the rate back"


@pytest.mark.parametrize("schedule", ["cosine", "plateau", "step", "constant"])
def test_the_sound_schedules_do_not_freeze(schedule):
    assert min(whole_run(steps=20, epochs=50, loss=1.39, lr=0.01, schedule=schedule)) > 0


def test_one_loss_that_does_not_fall_costs_plateau_one_division():
    assert set(rates([1.39, 1.39], steps=878, epochs=50, lr=0.01, schedule="plateau")) == {0.01 / 5}


# -- in stages ---------------------------------------------------------------------------------------------------------

STAGED = {"lr": 0.1, "late_lr": 0.02}


@given(
    schedule=st.sampled_from(SCHEDULES),
    head_epochs=st.integers(0, 5),
    epochs=st.integers(1, 8),
    steps=st.integers(1, 5),
    warmup=st.sampled_from([0, 0.2, 1]),
    losses=st.lists(st.sampled_from([1.0, 2.0, 3.0, NAN]), min_size=8, max_size=8),
)
def test_each_stage_is_a_run_of_its_own(schedule, head_epochs, epochs, steps, warmup, losses):
    """What two runs, one after the other, would do: of the rate, epochs and losses of each stage."""
    choice = {"schedule": schedule, "warmup": warmup, "step_at": (0.5,)}
    staged = OptimConfig(**STAGED, head_epochs=head_epochs, **choice)
    for step in range(steps * epochs):
        epoch = step // steps
        if epoch < head_epochs:
            alone = 0.1, step, min(head_epochs, epochs), losses[:epoch]
        elif head_epochs:
            alone = 0.02, step - steps * head_epochs, epochs - head_epochs, losses[head_epochs:epoch]
        else:
            alone = 0.1, step, epochs, losses[:epoch]
        lr, own, planned, seen = alone
        expected = learning_rate(OptimConfig(lr=lr, **choice), own, steps, planned, seen)
        assert learning_rate(staged, step, steps, epochs, losses[:epoch]) == expected


def test_both_stages_warm_up_and_fall_to_zero():
    rate = whole_run(head_epochs=4, warmup=0.1, late_lr=0.02)
    assert rate[:5] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1]) and 0 < rate[39] < 1e-3
    assert rate[40:46] == pytest.approx([n / 6 * 0.02 for n in range(1, 7)]) and 0 < rate[99] < 1e-4
    assert max(rate[40:]) == 0.02


def test_a_stage_that_has_begun_goes_on_where_there_are_to_be_more_epochs():
    config = OptimConfig(**STAGED, head_epochs=2, warmup=0)
    planned, longer = (learning_rate(config, 45, 10, epochs, [1.0] * 4) for epochs in (6, 12))
    assert planned == pytest.approx(0.02 * 0.5 * (1 + math.cos(math.pi * 25 / 40)))
    assert longer == pytest.approx(0.02 * 0.5 * (1 + math.cos(math.pi * 25 / 100)))


# -- all of them -------------------------------------------------------------------------------------------------------

LOSSES = st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=12)
CHOICES = {
    "schedule": st.sampled_from(SCHEDULES),
    "lr": st.floats(1e-300, 1e6),
    "warmup": st.floats(0, 1),
    "divide_by": st.floats(1.01, 1e300),
    "step_at": st.lists(st.floats(1e-6, 1 - 1e-6), max_size=4).map(tuple),
    "plateau_patience": st.integers(1, 4),
}


@given(losses=LOSSES, steps=st.integers(1, 50), more=st.integers(1, 5), choice=st.fixed_dictionaries(CHOICES))
def test_rates_are_finite_never_negative_and_never_above_the_peak(losses, steps, more, choice):
    config = OptimConfig(**choice)
    for step in (0, steps // 2, steps - 1):
        rate = learning_rate(config, len(losses) * steps + step, steps, len(losses) + more, losses)
        assert math.isfinite(rate) and rate >= 0
        assert rate <= config.lr * (1 + 1e-15)  # the warm-up's last step may round up by a bit


@given(losses=LOSSES, steps=st.integers(1, 50), schedule=st.sampled_from(("step", "plateau", "divide_when_loss_rises")))
def test_what_divides_never_rises(losses, steps, schedule):
    config = OptimConfig(schedule=schedule, warmup=0)
    taken = [learning_rate(config, s, steps, 12, losses[: s // steps]) for s in range(steps * (len(losses) + 1))]
    assert all(later <= earlier for earlier, later in pairwise(taken))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_thousands_of_epochs_do_not_make_a_step_dear(schedule):
    config = OptimConfig(schedule=schedule)
    losses = [1.0] * 3000
    started = time.perf_counter()
    for step in range(20):
        learning_rate(config, 3000 * 878 + step, 878, 5000, losses)
    assert time.perf_counter() - started < 0.2  # 10 ms a step; it takes a twentieth of that
