"""How far could these figures have come out otherwise?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ena24ssd import bootstrap
from ena24ssd.bootstrap import Groups, draw_weights, group_by, group_by_names, group_singly, interval, p_value, resample
from ena24ssd.cameratraps import Image


def picture(key, location=None, sequence=None):
    return Image(str(key), f"{key}.jpg", 10, 10, (), location, sequence)


def partition(groups):
    """The sets of pictures that stand together."""
    return {frozenset(np.flatnonzero(groups.of == number).tolist()) for number in groups.of}


def share(right):
    """A measure: the share of pictures that are right, among those drawn."""
    return lambda weights: {"share": weights @ right / weights.sum(axis=1)}


# -- groups ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where, kind, together",
    [
        pytest.param([("a", "1"), ("a", "1"), ("a", "2")], "sequences", [{0, 1}, {2}], id="sequences of one camera"),
        pytest.param([("a", "1"), ("b", "1"), ("b", "1")], "sequences", [{0}, {1, 2}], id="cameras number alike"),
        pytest.param([(None, "1"), (None, "2"), (None, "1")], "sequences", [{0, 2}, {1}], id="sequences, no camera"),
        pytest.param([("a", "1"), (None, "1"), ("b", "2")], "sequences", [{0, 1}, {2}], id="the rest tells its camera"),
        pytest.param([("a", None), ("b", "1"), ("a", "2")], "cameras", [{0, 2}, {1}], id="one lacks its sequence"),
        pytest.param([("a", None), ("b", None), ("a", None)], "cameras", [{0, 2}, {1}], id="cameras alone"),
        pytest.param([("a", "1"), (None, None)], None, None, id="one with neither"),
        pytest.param([("a", "1"), ("b", "1"), (None, "1")], None, None, id="whose sequence 1 is it"),
        pytest.param([(None, None)] * 3, None, None, id="as ENA24: the json names nothing"),
        pytest.param([], "sequences", [], id="no picture"),
    ],
)
def test_groups_by_name(where, kind, together):
    groups = group_by_names([picture(key, *names) for key, names in enumerate(where)])
    if kind is None:
        assert groups is None
    else:
        assert groups.kind == kind and groups.of.dtype == np.int64 and len(groups.of) == len(where)
        assert partition(groups) == set(map(frozenset, together)) and groups.count == len(together)


def test_groups_by_any_key_are_numbered_as_they_come():
    groups = group_by(["x", 7, "x", ("a", None), 7], "near-duplicates")
    assert groups.of.tolist() == [0, 1, 0, 2, 1] and groups.kind == "near-duplicates" and groups.count == 3


def test_single_pictures():
    groups = group_singly(4)
    assert groups.of.tolist() == [0, 1, 2, 3] and groups.kind == "pictures" and groups.count == 4


# -- draws -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-3, 9), max_size=30), st.integers(1, 20), st.integers(0, 5))
def test_a_draw_takes_as_many_whole_groups_as_there_are(of, resamples, seed):
    groups = Groups(np.array(of, dtype=np.int64), "sequences")
    weights = np.concatenate(list(draw_weights(groups, resamples, seed)))
    assert weights.shape == (resamples, len(of)) and weights.dtype == np.float64
    assert (weights >= 0).all() and (weights == np.round(weights)).all()
    first = [of.index(number) for number in sorted(set(of))]
    if of:
        assert (weights[:, first].sum(axis=1) == groups.count).all()
    for number in set(of):
        members = weights[:, np.array(of) == number]
        assert (members == members[:, :1]).all()


def test_draws_are_those_of_the_textbook():
    """Each of G groups is drawn once on average, with the variance of G tosses at 1/G, and against others."""
    weights = np.concatenate(list(draw_weights(group_singly(20), 20_000, seed=3)))
    assert weights.mean(axis=0) == pytest.approx(np.ones(20), abs=0.03)
    covariance = np.cov(weights.T)
    assert np.diag(covariance) == pytest.approx(np.full(20, 0.95), abs=0.04)
    assert covariance[~np.eye(20, dtype=bool)] == pytest.approx(np.full(380, -0.05), abs=0.04)


def test_blocks_change_nothing(monkeypatch):
    groups = Groups(np.array([4, 4, 1, 7, 7, 7, 0]), "cameras")
    whole = list(draw_weights(groups, 50, seed=2))
    monkeypatch.setattr(bootstrap, "WEIGHTS_AT_ONCE", 25)
    parts = list(draw_weights(groups, 50, seed=2))
    assert len(whole) == 1 and [len(part) for part in parts] == [3] * 16 + [2]
    assert np.array_equal(whole[0], np.concatenate(parts))
    right = np.arange(7) % 2
    assert np.array_equal(resample(share(right), groups, 50, seed=2)["share"], share(right)(whole[0])["share"])


def test_a_seed_says_it_all():
    groups = group_singly(30)
    first, again, other = (next(draw_weights(groups, 5, seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("resamples", [0, -1])
def test_no_draw_at_all(resamples):
    with pytest.raises(ValueError, match=rf"resamples is {resamples}; it must be 1 or more"):
        resample(share(np.ones(3)), group_singly(3), resamples)


def test_figures_of_any_shape_are_put_together(monkeypatch):
    monkeypatch.setattr(bootstrap, "WEIGHTS_AT_ONCE", 30)
    draws = resample(lambda w: {"a": w.sum(axis=1), "b": np.ones((len(w), 3, 2))}, group_singly(10), 7)
    assert draws["a"].tolist() == [10.0] * 7 and draws["b"].shape == (7, 3, 2)


# -- intervals ---------------------------------------------------------------------------------------------------------

MANY = group_singly(10**6)  # where Student's distribution is the normal one


def test_percentiles():
    values = np.random.default_rng(0).permutation(np.linspace(0, 1, 1001))
    assert interval(values, MANY) == pytest.approx((0.025, 0.975), abs=1e-5)
    assert interval(values, MANY, 0.8) == pytest.approx((0.1, 0.9), abs=1e-5)
    low, high = interval(values[:, None, None] * [[1, 2, 3]], MANY)
    assert low.shape == high.shape == (1, 3) and high[0] == pytest.approx([0.975, 1.95, 2.925], abs=1e-4)


@pytest.mark.parametrize(
    "values, groups, told",
    [
        pytest.param(np.linspace(0, 1, 200), 50, True, id="as it should be"),
        pytest.param(np.r_[np.linspace(0, 1, 181), np.full(19, np.nan)], 50, True, id="a few draws undefined"),
        pytest.param(np.r_[np.linspace(0, 1, 179), np.full(21, np.nan)], 50, False, id="over a tenth undefined"),
        pytest.param(np.linspace(0, 1, 99), 50, False, id="fewer than a hundred draws"),
        pytest.param(np.full(200, np.nan), 50, False, id="never defined"),
        pytest.param(np.ones(200), 50, False, id="the same in every draw"),
        pytest.param(0.3 + 1e-15 * np.arange(200), 50, False, id="the same but for rounding"),
        pytest.param(np.linspace(0, 1, 200), 5, True, id="five groups"),
        pytest.param(np.linspace(0, 1, 200), 4, False, id="four groups"),
        pytest.param(np.zeros(0), 50, False, id="no draw"),
        pytest.param(np.linspace(0, 1, 200), 0, False, id="no picture"),
    ],
)
def test_when_draws_can_tell(values, groups, told):
    low, high = interval(values, group_singly(groups))
    assert (np.isfinite(low), np.isfinite(high)) == (told, told)
    assert not told or 0 <= low < high <= 1


def test_a_species_that_cannot_be_told_does_not_disturb_the_next():
    values = np.linspace(0, 1, 400)[:, None] * [1.0, np.nan, 0.0, 2.0]
    low, high = interval(values, MANY)
    assert np.isfinite(low).tolist() == np.isfinite(high).tolist() == [True, False, False, True]
    assert interval(values[:, :0], MANY)[0].shape == (0,)


def test_fewer_groups_make_wider_intervals():
    values = np.random.default_rng(0).normal(size=20_000)
    widths = [np.ptp(interval(values, group_singly(count))) for count in (5, 10, 20, 100, 10_000)]
    assert widths == sorted(widths, reverse=True)
    # Student's 2.262 of 9 degrees of freedom, times the root of 10/9, over the normal distribution's 1.960
    assert widths[1] / widths[-1] == pytest.approx(2.262 * np.sqrt(10 / 9) / 1.960, rel=0.03)


@pytest.fixture(scope="module")
def coverage():
    """How often intervals hold the true share, over 300 worlds of 25 bursts: drawn by bursts, by pictures."""
    random = np.random.default_rng(7)
    held = {"sequences": 0, "pictures": 0}
    for seed in range(300):
        of = np.repeat(np.arange(25), random.integers(1, 9, 25))
        right = random.random(len(of)) < random.beta(2, 1, 25)[of]  # a burst is easy or hard as a whole; mean 2/3
        for groups in (Groups(of, "sequences"), group_singly(len(of))):
            low, high = interval(resample(share(right), groups, 300, seed)["share"], groups)
            held[groups.kind] += low <= 2 / 3 <= high
    return {kind: number / 300 for kind, number in held.items()}


def test_intervals_hold_the_truth_as_often_as_they_say(coverage):
    assert 0.91 <= coverage["sequences"] <= 0.98


def test_single_pictures_of_bursts_promise_too_much(coverage):
    assert coverage["pictures"] < 0.88


def test_bursts_are_fewer_witnesses_than_pictures():
    """Ten equal pictures in each burst: as if there were a tenth of the pictures, so the root of ten wider."""
    of = np.repeat(np.arange(100), 10)
    right = np.repeat(np.arange(100) % 3 == 0, 10)
    wide, narrow = (
        np.ptp(interval(resample(share(right), groups, 2000)["share"], groups))
        for groups in (Groups(of, "sequences"), group_singly(1000))
    )
    assert wide / narrow == pytest.approx(np.sqrt(10), rel=0.12)


# -- p values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "differences, groups, p",
    [
        pytest.param(np.zeros(999), 50, 1.0, id="the same in every draw"),
        pytest.param(np.full(999, 1e-15), 50, 1.0, id="the same but for rounding"),
        pytest.param(np.r_[np.ones(500), -np.ones(499)], 10**6, 1.0, id="as often the one as the other"),
        pytest.param(np.ones(999), 10**6, 0.002, id="never the other: never 0, but 2 in B + 1"),
        pytest.param(-np.ones(999), 10**6, 0.002, id="two-sided"),
        pytest.param(np.r_[np.ones(980), -np.ones(19)], 10**6, 0.04, id="19 of 999"),
        pytest.param(np.r_[np.ones(980), np.zeros(19)], 10**6, 0.04, id="ties speak against"),
        pytest.param(np.ones(999), 1, 1.0, id="one group proves nothing"),
        pytest.param(np.ones(999), 2, 0.273, id="two groups hardly more"),
        pytest.param(np.r_[np.ones(950), np.full(49, np.nan)], 10**6, 2 / 951, id="undefined draws do not count"),
        pytest.param(np.r_[np.ones(850), np.full(149, np.nan)], 50, np.nan, id="too many undefined"),
        pytest.param(np.ones(99), 50, np.nan, id="too few draws"),
        pytest.param(np.zeros(0), 50, np.nan, id="no draw"),
    ],
)
def test_p_value(differences, groups, p):
    assert p_value(differences, group_singly(groups)) == pytest.approx(p, abs=1e-3, nan_ok=True)
    assert p_value(np.stack([differences] * 2, axis=-1), group_singly(groups)).shape == (2,)


@given(st.integers(0, 10**6), st.integers(5, 200), st.floats(-0.5, 0.5), st.sampled_from([0.8, 0.9, 0.95]))
def test_p_is_small_where_the_interval_leaves_out_zero(seed, groups, shift, level):
    differences = np.random.default_rng(seed).normal(shift, 0.2, 4000)
    some = group_singly(groups)
    low, high = interval(differences, some, level)
    p = p_value(differences, some)
    near = abs(p - (1 - level)) < 0.02  # one draw more is held against it
    assert near or (p < 1 - level) == (low > 0 or high < 0)
