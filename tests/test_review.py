"""How many pictures need nobody to look at them?  Held against counting picture by picture."""

from __future__ import annotations

import numpy as np
import pytest
from test_tally import LEFT, RIGHT, cases_of, random_cases

from ena24ssd.cases import Cases
from ena24ssd.review import apply, review_curve

NAN = np.nan


def scored(*pictures: tuple[bool, float]) -> Cases:
    """One picture each, with an animal or without, whose best detection has this score; 0: nothing found."""
    pictures = [
        ([("fox", LEFT)] * animal, [("hare", score, RIGHT), ("hare", score / 2, LEFT)] * (score > 0))
        for animal, score in pictures
    ]
    return cases_of(*pictures)


FOUR = [(True, 0.9), (False, 0.6), (True, 0.4), (False, 0)]
ASKED = {
    "no animal may be lost": (FOUR, 1, (0.4, 1, 1 / 4)),
    "half of the animals are enough": (FOUR, 0.5, (0.9, 1 / 2, 3 / 4)),
    "what is asked for lies between two thresholds": (FOUR, 0.51, (0.4, 1, 1 / 4)),
    "an animal on which nothing was found: everything has to be looked at": ([*FOUR, (True, 0)], 1, (0, 1, 0)),
    "pictures with the same score go together": (
        [(True, 0.5), (True, 0.5), (False, 0.5), (False, 0.2)],
        0.5,
        (0.5, 1, 0.25),
    ),
    "one score for all": ([(True, 0.5), (False, 0.5)], 0.9, (0.5, 1, 0)),
    "nothing found anywhere": ([(True, 0), (False, 0)], 0.9, (0, 1, 0)),
    "animals only": ([(True, 0.5), (True, 0.7)], 0.5, (0.7, 0.5, 0.5)),
    "blank pictures only": ([(False, 0.5), (False, 0.7)], 0.5, (NAN, NAN, NAN)),
    "no pictures": ([], 0.5, (NAN, NAN, NAN)),
    "19 of 20 are 95 %": ([(True, score / 20) for score in range(1, 21)], 0.95, (0.1, 0.95, 0.05)),
}


@pytest.mark.parametrize(("pictures", "recall", "expected"), ASKED.values(), ids=ASKED)
def test_the_threshold_that_keeps_enough(pictures, recall, expected):
    cases = scored(*pictures)
    threshold, kept, skipped = review_curve(cases).at(recall)
    assert (threshold, kept, skipped) == pytest.approx(expected, nan_ok=True)
    if pictures and kept == kept:
        assert apply(cases, threshold) == (kept, skipped)


@pytest.mark.parametrize("seed", range(5))
def test_the_curve_is_what_counting_says(seed):
    cases = random_cases(seed, pictures=30)
    review = review_curve(cases)
    best = [max(cases.found.score[cases.found.picture == place], default=0.0) for place in range(len(cases))]
    animal = [bool(np.any(cases.truth.picture == place)) for place in range(len(cases))]
    assert review.threshold.tolist() == sorted(set(best))
    for threshold, recall, skipped in zip(review.threshold, review.recall, review.skipped):
        kept = [score >= threshold for score in best]
        assert recall == pytest.approx(sum(k and a for k, a in zip(kept, animal)) / sum(animal))
        assert skipped == pytest.approx(1 - sum(kept) / len(kept))
        assert apply(cases, threshold) == pytest.approx((recall, skipped))
    assert review.recall[0] == 1 and review.skipped[0] == 0
    for asked in (0.01, 0.3, 0.9, 1):
        threshold, recall, _ = review.at(asked)
        assert recall >= asked and not np.any(review.recall[review.threshold > threshold] >= asked)


@pytest.mark.parametrize(
    ("pictures", "threshold", "expected"),
    [
        pytest.param(FOUR, 0.5, (0.5, 0.5), id="a threshold from elsewhere"),
        pytest.param(FOUR, 1.5, (0, 1), id="above every score nobody looks at anything"),
        pytest.param(FOUR, 0, (1, 0), id="at 0 everything is looked at"),
        pytest.param([(False, 0.3), (False, 0.6)], 0.5, (NAN, 0.5), id="without animals there is no recall"),
        pytest.param([], 0.5, (NAN, NAN), id="without pictures there is nothing to say"),
    ],
)
def test_a_threshold_on_other_pictures(pictures, threshold, expected):
    assert apply(scored(*pictures), threshold) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        pytest.param([1, 1, 1, 1], (0.5, 0.5), id="each once, as without weights"),
        pytest.param([3, 1, 1, 1], (3 / 4, 2 / 6), id="three times the one that is kept"),
        pytest.param([1, 0, 3, 0], (1 / 4, 3 / 4), id="only those with animals"),
        pytest.param([0, 1, 0, 1], (NAN, 1 / 2), id="only blank ones: no recall"),
        pytest.param([0, 0, 0, 0], (NAN, NAN), id="none of them: nothing to say"),
        pytest.param([0.5, 0.5, 0.25, 0.25], (2 / 3, 1 / 3), id="parts of pictures"),
        pytest.param([[1, 1, 1, 1], [3, 1, 1, 1]], ([0.5, 3 / 4], [0.5, 1 / 3]), id="two draws at once"),
        pytest.param(np.zeros((0, 4)), ([], []), id="no draw"),
    ],
)
def test_pictures_that_count_more_than_others(weights, expected):
    weights = np.array(weights)
    for got, value in zip(apply(scored(*FOUR), 0.5, weights), expected):
        assert np.shape(got) == weights.shape[:-1]
        assert np.asarray(got) == pytest.approx(np.array(value), nan_ok=True)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threshold", [0, 0.3, 0.5, 1.1], ids="threshold {}".format)
def test_a_weight_is_how_often_the_picture_is_there(seed, threshold):
    cases = random_cases(seed, pictures=20)
    weights = np.random.default_rng(seed).integers(0, 4, (2, 3, 20))
    recall, skipped = apply(cases, threshold, weights)
    assert recall.shape == skipped.shape == (2, 3)
    for place in np.ndindex(2, 3):
        times = weights[place].tolist()
        there = [(best >= threshold, not blank) for best, blank in zip(cases.best_score, cases.blank)]
        there = [picture for picture, number in zip(there, times) for _ in range(number)]
        kept = [looked_at for looked_at, animal in there if animal]
        assert recall[place] == pytest.approx(sum(kept) / len(kept))
        assert skipped[place] == pytest.approx(1 - sum(looked_at for looked_at, _ in there) / len(there))


@pytest.mark.parametrize("weights", [None, np.ones(4), np.ones((2, 4))], ids=["none", "(P,)", "(b, P)"])
def test_no_threshold_says_nothing_however_pictures_are_weighed(weights):
    for got in apply(scored(*FOUR), NAN, weights):
        assert np.shape(got) == (() if weights is None else weights.shape[:-1]) and np.all(np.isnan(got))


@pytest.mark.parametrize("recall", [0, -0.1, 1.01, 95, NAN])
def test_a_recall_that_cannot_be_asked_for(recall):
    with pytest.raises(ValueError, match=r"review: the recall asked for is .*; it must be above 0 and at most 1"):
        review_curve(scored(*FOUR)).at(recall)
