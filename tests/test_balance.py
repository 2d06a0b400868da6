"""How do rare species get their say?"""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ena24ssd.balance import epoch_length, repeat_factors, repeated_positions, species_weights
from ena24ssd.boxes import Box, LabelledBox
from ena24ssd.cameratraps import Image, read
from ena24ssd.config import ConfigError

NAMES = ("Deer", "Raccoon", "Bobcat", "Bear")


def pictures(*labels):
    """One picture for each tuple of labels."""
    box = Box(0, 0, 5, 5)
    return [
        Image(str(i), f"{i}.jpg", 10, 10, tuple(LabelledBox(k, box) for k in some)) for i, some in enumerate(labels)
    ]


# -- repeat factors ----------------------------------------------------------------------------------------------------

TEN = [(0,)] * 7 + [(0, 1), (2,), ()]  # on shares .8, .1, .1 and none of the pictures


@pytest.mark.parametrize(
    "labels, below, factors",
    [
        pytest.param(TEN, 0.05, [1] * 10, id="all species common enough"),
        pytest.param(TEN, 0.1, [1] * 10, id="just on the share"),
        pytest.param(TEN, 0.4, [1] * 7 + [2, 2, 1], id="four times too rare: twice; the deer stands with the raccoon"),
        pytest.param(TEN, 0.9, [1.125**0.5] * 7 + [3, 3, 1], id="the rarest species of a picture decides"),
        pytest.param([(1, 1, 1), (0,), (0,), (0,)], 1.0, [2] + [(4 / 3) ** 0.5] * 3, id="pictures count, not boxes"),
        pytest.param([(), ()], 1.0, [1, 1], id="blank pictures alone"),
        pytest.param([], 0.5, [], id="no picture at all"),
    ],
)
def test_repeat_factors(labels, below, factors):
    found = repeat_factors(pictures(*labels), 4, below)
    assert found.dtype == np.float64 and found.shape == (len(labels),)
    assert found == pytest.approx(factors)


LABELS = st.lists(st.lists(st.integers(0, 3), max_size=3).map(tuple), min_size=1, max_size=40)


@given(LABELS, st.floats(0.001, 1))
def test_repeat_factors_are_the_papers_formula(labels, below):
    share = {k: sum(k in some for some in labels) / len(labels) for k in range(4)}
    expected = [max([1.0, *(math.sqrt(below / share[k]) for k in some)]) for some in labels]
    assert repeat_factors(pictures(*labels), 4, below) == pytest.approx(expected)


# -- what an epoch shows -----------------------------------------------------------------------------------------------

FACTORS = st.lists(st.one_of(st.just(1.0), st.floats(1, 6)), max_size=40).map(np.array)


@given(FACTORS, st.integers(0, 2**31))
def test_every_picture_comes_floor_or_ceil_times_and_every_epoch_is_equally_long(factors, seed):
    shown = repeated_positions(factors, np.random.default_rng(seed))
    times = np.bincount(shown, minlength=len(factors))
    assert shown.dtype == np.int64 and len(shown) == epoch_length(factors)
    assert np.array_equal(shown, np.sort(shown))
    assert (np.floor(factors) <= times).all() and (times <= np.ceil(factors)).all()


@given(FACTORS)
def test_an_epoch_falls_short_of_its_factors_by_less_than_one_picture(factors):
    assert len(factors) <= epoch_length(factors) <= sum(map(Fraction, factors.tolist())) + Fraction(1, 10**9)
    assert epoch_length(factors) > sum(map(Fraction, factors.tolist())) - 1


class Numbers:
    """A random generator that gives the numbers it is told."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def random(self, dtype):
        return self.numbers.pop(0)


@pytest.mark.parametrize(
    "factors",
    [
        pytest.param([1.5, 1, 1.25, 2.75, 1, 1.5], id="mixed"),
        pytest.param([1.5] * 6, id="halves"),
        pytest.param([1, 3, 2], id="whole"),
        pytest.param([1.125] * 8 + [1], id="small"),
    ],
)
def test_the_mean_over_the_epochs_is_the_factor(factors):
    grid = 64  # evenly spread draws instead of many random ones: then the mean is exact
    times = sum(
        np.bincount(repeated_positions(np.array(factors), Numbers((i + 0.5) / grid)), minlength=len(factors))
        for i in range(grid)
    )
    assert np.array_equal(times / grid, factors)


def test_fractions_that_make_no_whole_shrink_alike():
    factors = np.array([1.0, 1.5, 1.75, 1.0])  # 1.25 more than one each: 1
    times = sum(np.bincount(repeated_positions(factors, Numbers((i + 0.5) / 100)), minlength=4) for i in range(100))
    assert times / 100 == pytest.approx([1, 1.4, 1.6, 1])


def test_extreme_draws_change_nothing_about_the_length():
    factors = np.array([1.0, 1.3, 1.7, 2.9, 1.1, 1.0])
    for number in (0.0, 2**-24, 0.5, 1 - 2**-24):
        shown = repeated_positions(factors, Numbers(number))
        assert len(shown) == epoch_length(factors) == 9
        assert shown.tolist().count(0) == shown.tolist().count(5) == 1


def test_whole_factors_draw_nothing():
    assert repeated_positions(np.array([1.0, 2.0, 1.0]), Numbers()).tolist() == [0, 1, 1, 2]


# -- weights in the loss -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "choice, weights",
    [
        pytest.param("balanced", [5 / 9, 5 / 3, 5 / 3, 1], id="6, 2 and 2 boxes of 10, none of the bear"),
        pytest.param({}, [1, 1, 1, 1], id="no name, no change"),
        pytest.param({"Bobcat": 3.0, "Bear": 0.5}, [1, 1, 3, 0.5], id="by name"),
    ],
)
def test_species_weights(choice, weights):
    found = species_weights(pictures((0,) * 6, (1, 2), (), (1, 2)), NAMES, choice)
    assert found.dtype == np.float32 and found == pytest.approx(weights)


def test_equal_weights_are_none_at_all():
    assert species_weights(pictures((0,)), NAMES, "equal") is None


def test_balance_without_boxes_weighs_all_alike():
    assert species_weights(pictures((), ()), NAMES, "balanced").tolist() == [1, 1, 1, 1]


@given(LABELS)
def test_balanced_species_pull_equally_and_the_mean_over_the_boxes_is_one(labels):
    weights = species_weights(pictures(*labels), NAMES, "balanced")
    boxes = Counter(label for some in labels for label in some)
    pulls = [weights[label] * count for label, count in boxes.items()]
    assert pulls == pytest.approx([sum(boxes.values()) / max(len(boxes), 1)] * len(boxes))
    assert all(weights[label] == 1 for label in range(4) if label not in boxes)


@pytest.mark.parametrize(
    "name, way_out",
    [
        pytest.param("Racoon", "did you mean 'Raccoon'?", id="misspelt"),
        pytest.param("bobcat", "did you mean 'Bobcat'?", id="capitals count"),
        pytest.param("Walrus", "'ena24ssd check' lists them", id="nothing like it"),
    ],
)
def test_a_weight_for_an_unknown_species_says_the_way_out(name, way_out):
    with pytest.raises(ConfigError) as caught:
        species_weights(pictures((0,)), NAMES, {"Deer": 2.0, name: 2.0})
    assert str(caught.value).startswith(f"loss.species_weights: no species is called '{name}'; ")
    assert way_out in str(caught.value)


def test_ena24_rare_species_come_up_more_often(shared_data):
    dataset = read(shared_data / "ena24" / "ena24.json", check_files=False)
    count = len(dataset.class_names)
    factors = repeat_factors(dataset.images, count, 0.05)
    shown = repeated_positions(factors, np.random.default_rng(0))

    def pictures_of(positions):
        labels = Counter()
        for position in positions:
            labels.update({label for label, _ in dataset.images[position].boxes})
        return [labels[label] for label in range(count)]

    before, after = pictures_of(range(len(dataset.images))), pictures_of(shown)
    present = [label for label in range(count) if before[label]]
    assert all(after[label] >= before[label] for label in present)
    spread = [max(some[k] for k in present) / min(some[k] for k in present) for some in (before, after)]
    assert spread[1] < spread[0]
