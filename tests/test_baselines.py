"""What would one score without looking?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ena24ssd.baselines import constant_detector, random_detector
from ena24ssd.boxes import Box, LabelledBox
from ena24ssd.cameratraps import Image
from ena24ssd.cases import gather
from ena24ssd.detections import Detection

NAMES = ("Deer", "Raccoon", "Bear")


def picture(*animals, width=100, height=100):
    """A picture with a box for each (label, left, top, right, bottom)."""
    boxes = tuple(LabelledBox(label, Box(*map(float, box))) for label, *box in animals)
    return Image("x", "x.jpg", width, height, boxes)


def cases_of(*pictures, found=()):
    """Cases of pictures; ``found`` lists the scores on each, all of them bears over the whole of a 100 px picture."""
    found = [*found, *[()] * (len(pictures) - len(found))]
    detections = [[Detection(2, "Bear", score, Box(0, 0, 100, 100)) for score in scores] for scores in found]
    return gather(pictures, detections, NAMES)


LEARNT = [
    picture((0, 0, 0, 20, 40), (1, 50, 50, 60, 60)),
    picture((0, 40, 40, 60, 60)),
    picture(),
    picture((0, 0, 0, 100, 100), width=200, height=200),  # its lower right corner lies at (.5, .5)
]


# -- the constant answer -----------------------------------------------------------------------------------------------


def test_the_most_frequent_species_is_found_where_it_lies_on_average():
    cases = cases_of(picture(), picture((1, 0, 0, 9, 9), width=1000, height=10), found=[[0.9, 0.8]])
    found = constant_detector(cases, LEARNT).found
    assert found.picture.tolist() == [0, 1]
    assert found.label.tolist() == [0, 0]
    assert found.score.tolist() == [0.75, 0.75]
    usual = np.array([40 / 300, 40 / 300, (20 + 60 + 50) / 300, (40 + 60 + 50) / 300])
    assert found.box == pytest.approx(np.array([usual * 100, usual * [1000, 10, 1000, 10]]))


def test_truth_pictures_and_names_stay():
    cases = cases_of(picture((1, 0, 0, 9, 9)), found=[[0.4]])
    for other in (constant_detector(cases, LEARNT), random_detector(cases, LEARNT)):
        assert other.truth is cases.truth and other.ids == cases.ids and other.class_names == NAMES
        assert cases.found.label.tolist() == [2]


def test_of_two_species_alike_the_first_is_named():
    learnt = [picture((2, 0, 0, 9, 9)), picture((1, 0, 0, 9, 9))]
    found = constant_detector(cases_of(picture()), learnt).found
    assert (found.label.tolist(), found.score.tolist()) == ([1], [0.5])


def test_without_training_pictures_the_truth_of_the_cases_takes_their_place():
    cases = cases_of(*LEARNT, found=[[0.9, 0.1], [], [0.5], [0.3]])
    for detector in (constant_detector, random_detector):
        mine, theirs = detector(cases, []).found, detector(cases, LEARNT).found
        assert all(np.allclose(a, b) for a, b in zip(mine, theirs))


@pytest.mark.parametrize(
    "cases, learnt",
    [
        pytest.param(cases_of(picture((1, 0, 0, 9, 9)), found=[[0.5]]), [picture()], id="training pictures are blank"),
        pytest.param(cases_of(picture(), found=[[0.5]]), [], id="no training pictures, and no animal at all"),
        pytest.param(cases_of(), LEARNT, id="no pictures to look at"),
        pytest.param(cases_of(), [], id="no pictures anywhere"),
    ],
)
def test_without_anything_learnt_or_to_look_at_nothing_is_found(cases, learnt):
    for detector in (constant_detector, random_detector):
        found = detector(cases, learnt).found
        assert [len(column) for column in found] == [0] * 4
        assert found.box.shape == (0, 4)


# -- guesses -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.floats(0, 1), max_size=4), min_size=1, max_size=6), st.integers(0, 99))
def test_guesses_are_as_many_and_score_the_same_on_every_picture(scores, seed):
    cases = cases_of(*[picture(width=100 + 50 * k) for k in range(len(scores))], found=scores)
    guessed = random_detector(cases, LEARNT, seed)
    assert np.array_equal(guessed.found.picture, cases.found.picture)
    assert np.array_equal(guessed.found.score, cases.found.score)
    frame = np.tile(cases.sizes[guessed.found.picture], 2)
    assert np.all(guessed.found.box >= 0) and np.all(guessed.found.box <= frame * (1 + 1e-12))


def test_a_guess_has_species_and_size_of_one_training_animal():
    sizes = {(0, 0.2, 0.4), (1, 0.1, 0.1), (0, 0.2, 0.2), (0, 0.5, 0.5)}
    cases = cases_of(picture(width=400, height=300), found=[np.linspace(0, 1, 300)])
    found = random_detector(cases, LEARNT).found
    extent = (found.box[:, 2:] - found.box[:, :2]) / [400, 300]
    seen = {(label, *size) for label, size in zip(found.label.tolist(), map(tuple, extent.round(9).tolist()))}
    assert seen == sizes
    assert np.mean(found.label == 1) == pytest.approx(0.25, abs=0.08)


def test_places_are_spread_over_the_whole_picture():
    learnt = [picture((0, 0, 0, 20, 20))]
    found = random_detector(cases_of(picture(), found=[np.full(2000, 0.5)]), learnt).found
    assert found.box[:, :2].min() < 1 and found.box[:, 2:].max() > 99
    assert found.box[:, :2].mean(axis=0) == pytest.approx([40, 40], abs=2)


def test_a_seed_stands_for_its_guesses():
    cases = cases_of(*LEARNT, found=[[0.9, 0.1], [0.2], [0.5], [0.3]])
    first, again, other = (random_detector(cases, LEARNT, seed).found for seed in (3, 3, 4))
    assert np.array_equal(first.box, again.box) and np.array_equal(first.label, again.label)
    assert not np.array_equal(first.box, other.box)
