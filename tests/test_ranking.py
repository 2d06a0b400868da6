"""Are precision, recall and average precision what COCO and scikit-learn say, and does weighting mean repeating?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve
from test_matching import ELSEWHERE, HALF, WHOLE, coco_evaluator, make_cases, random_pictures

from ena24ssd import ranking
from ena24ssd.cases import Cases
from ena24ssd.matching import match
from ena24ssd.ranking import RECALLS, Ranking, average_precision, pooled_curve, species_curves, trace

NAN = math.nan

# scores, right, boxes; then the curve's scores, precision, recall, and its best score with its F1
CURVES = [
    ("right, wrong, right", [0.9, 0.8, 0.7], [1, 0, 1], 4,
     [0.9, 0.8, 0.7], [1, 1 / 2, 2 / 3], [1 / 4, 1 / 4, 2 / 4], (0.7, 4 / 7)),
    ("in any order", [0.7, 0.9, 0.8], [1, 1, 0], 4,
     [0.9, 0.8, 0.7], [1, 1 / 2, 2 / 3], [1 / 4, 1 / 4, 2 / 4], (0.7, 4 / 7)),
    ("equal scores enter together", [0.9, 0.5, 0.5, 0.5], [1, 0, 1, 0], 2,
     [0.9, 0.5], [1, 1 / 2], [1 / 2, 1], (0.9, 2 / 3)),
    ("as good at two scores: the higher", [0.9, 0.8, 0.7, 0.6], [1, 0, 0, 1], 2,
     [0.9, 0.8, 0.7, 0.6], [1, 1 / 2, 1 / 3, 1 / 2], [1 / 2, 1 / 2, 1 / 2, 1], (0.9, 2 / 3)),
    ("all found", [0.9, 0.2], [1, 1], 2, [0.9, 0.2], [1, 1], [1 / 2, 1], (0.2, 1)),
    ("none right", [0.9, 0.2], [0, 0], 3, [0.9, 0.2], [0, 0], [0, 0], (0.9, 0)),
    ("nothing to find", [0.9, 0.2], [0, 0], 0, [0.9, 0.2], [0, 0], [NAN, NAN], (NAN, NAN)),
    ("nothing found", [], [], 3, [], [], [], (NAN, NAN)),
    ("nothing to find, nothing found", [], [], 0, [], [], [], (NAN, NAN)),
    ("a score of 0 is a score", [0.0], [1], 1, [0.0], [1], [1], (0.0, 1)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("scores", "right", "boxes", "at", "precision", "recall", "best"),
    [pytest.param(*row[1:], id=row[0]) for row in CURVES],
)
def test_curve(scores, right, boxes, at, precision, recall, best):
    curve = trace(np.array(scores), np.array(right, dtype=bool), boxes)
    assert (curve.scores.tolist(), curve.boxes) == (at, boxes)
    assert curve.precision == pytest.approx(precision)
    assert curve.recall == pytest.approx(recall, nan_ok=True)
    assert curve.best == pytest.approx(best, nan_ok=True)


FOUND = st.lists(st.tuples(st.integers(0, 10), st.booleans()), min_size=1, max_size=40)


@given(FOUND, st.integers(0, 20))
def test_f1_is_that_of_the_counts(found, missed):
    scores, right = np.array(found).T
    boxes = int(right.sum()) + missed
    curve = trace(scores, right, boxes)
    for score, f1 in zip(curve.scores, curve.f1):
        shown = scores >= score
        expected = 2 * (right * shown).sum() / (shown.sum() + boxes) if boxes else NAN
        assert f1 == pytest.approx(expected, nan_ok=True)
    if boxes:
        assert curve.best == pytest.approx(
            max((f1, score) for f1, score in zip(np.round(curve.f1, 9), curve.scores))[::-1]
        )


@given(FOUND.filter(lambda found: any(right for _, right in found)))
def test_curve_is_that_of_scikit_learn(found):
    scores, right = np.array(found).T
    curve = trace(scores, right, int(right.sum()))
    precision, recall, at = precision_recall_curve(right, scores, drop_intermediate=False)
    np.testing.assert_array_equal(curve.scores, at[::-1])
    np.testing.assert_allclose(curve.precision, precision[-2::-1], atol=1e-12)  # theirs ends on a point without score
    np.testing.assert_allclose(curve.recall, recall[-2::-1], atol=1e-12)


def test_curves_of_species_and_of_all():
    cases = make_cases(
        [
            ([(0, WHOLE), (1, ELSEWHERE)], [(0, 0.9, HALF), (1, 0.8, WHOLE)]),
            ([], [(0, 0.7, WHOLE), (2, 0.6, WHOLE)]),
            ([(0, WHOLE)], []),
        ]
    )
    matches = match(cases)
    first, second, absent = species_curves(cases, matches)
    assert (first.precision.tolist(), first.recall.tolist(), first.boxes) == ([1, 0.5], [0.5, 0.5], 2)
    assert (second.precision.tolist(), second.recall.tolist(), second.boxes) == ([0], [0], 1)
    assert absent.precision.tolist() == [0] and np.isnan(absent.recall).all() and absent.boxes == 0
    pooled = pooled_curve(cases, matches)
    assert (pooled.scores.tolist(), pooled.boxes) == ([0.9, 0.8, 0.7, 0.6], 3)
    assert pooled.precision == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert pooled.recall == pytest.approx([1 / 3] * 4)
    assert pooled_curve(cases, matches, overlap=0.75).recall.tolist() == [0] * 4, "half the box does not do there"


def test_curves_leave_out_what_does_not_count():
    cases = make_cases([([(0, WHOLE)], [(0, 0.9, ELSEWHERE)] * 100 + [(0, 0.5, WHOLE)])])
    for curve in (species_curves(cases, match(cases))[0], pooled_curve(cases, match(cases))):
        assert (curve.scores.tolist(), curve.recall.tolist()) == ([0.9], [0])


# scores, right, boxes, average precision: (recalls read at each precision) / 101
AVERAGES = [
    ("all found at once", [0.9], [1], 1, 1.0),
    ("half found: 0 to .5 are 51 recalls", [0.9], [1], 2, 51 / 101),
    ("behind a wrong one", [0.9, 0.8], [0, 1], 1, 1 / 2),
    ("right, wrong, right", [0.9, 0.8, 0.7], [1, 0, 1], 2, (51 + 50 * 2 / 3) / 101),
    ("the best precision further on counts", [0.9, 0.8, 0.7], [0, 1, 1], 2, 2 / 3),
    ("equal scores enter in their order: right first", [0.5, 0.5], [1, 0], 1, 1.0),
    ("equal scores enter in their order: wrong first", [0.5, 0.5], [0, 1], 1, 1 / 2),
    ("none right", [0.9, 0.8], [0, 0], 2, 0.0),
    ("nothing found", [], [], 2, 0.0),
    ("nothing to find", [0.9], [0], 0, NAN),
    ("nothing to find, nothing found", [], [], 0, NAN),
]


@pytest.mark.parametrize(
    ("scores", "right", "boxes", "expected"), [pytest.param(*row[1:], id=row[0]) for row in AVERAGES]
)
def test_average_precision(scores, right, boxes, expected):
    assert average_precision(np.array(scores), np.array(right, dtype=bool), boxes) == pytest.approx(
        expected, nan_ok=True
    )


def species_averages(cases: Cases) -> np.ndarray:
    """`average_precision` of every species and overlap, (C, O)."""
    matches = match(cases)
    rows = []
    for label, boxes in enumerate(cases.boxes_of_species):
        mine = matches.counted & (cases.found.label == label)
        rows.append([average_precision(cases.found.score[mine], right[mine], boxes) for right in matches.right])
    return np.array(rows).reshape(len(cases.class_names), 10)


@pytest.mark.parametrize("seed", range(6))
def test_average_precision_is_pycocotools_own(seed):
    cases = make_cases(random_pictures(seed, pictures=60), species=4)
    evaluator = coco_evaluator(cases)
    evaluator.evaluate()
    evaluator.accumulate()
    expected = evaluator.eval["precision"][..., 0, -1].mean(axis=1).T  # (C, O)
    np.testing.assert_allclose(species_averages(cases), np.where(expected < 0, NAN, expected), rtol=0, atol=1e-14)


# -- with weights ------------------------------------------------------------------------------------------------------


def test_the_recalls_reached_are_those_of_a_search():
    for boxes in range(1, 301):
        recall = np.arange(boxes + 1) / boxes
        expected = np.searchsorted(RECALLS, recall, side="right")
        np.testing.assert_array_equal(ranking._recalls_reached(recall), expected)
    near = np.concatenate([np.nextafter(RECALLS, -1), RECALLS, np.nextafter(RECALLS, 2)]).clip(0, 1)
    np.testing.assert_array_equal(ranking._recalls_reached(near), np.searchsorted(RECALLS, near, side="right"))


@pytest.mark.parametrize("seed", range(6))
def test_weights_of_one_give_the_plain_average_precision(seed):
    cases = make_cases(random_pictures(seed, pictures=60), species=4)
    result = Ranking(cases, match(cases)).average_precisions(np.ones((1, len(cases))))
    np.testing.assert_allclose(result[0], species_averages(cases), rtol=0, atol=1e-14)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 3), min_size=8, max_size=8))
def test_a_weight_is_a_number_of_copies(seed, weights):
    # 997 scores: hardly ever equal ones in a picture, of which copies would enter in another order
    pictures = random_pictures(seed, pictures=8, scores=997)
    cases = make_cases(pictures)
    repeated = make_cases([picture for picture, count in zip(pictures, weights) for _ in range(count)])
    scores = list(zip(cases.found.picture, cases.found.label, cases.found.score))
    assume(len(set(scores)) == len(scores))
    result = Ranking(cases, match(cases)).average_precisions(np.array([weights], dtype=np.uint8))
    np.testing.assert_allclose(result[0], species_averages(repeated), rtol=0, atol=1e-13)


def test_blocks_change_nothing(monkeypatch):
    cases = make_cases(random_pictures(3))
    weights = np.random.default_rng(3).integers(0, 3, (9, len(cases)))
    whole = Ranking(cases, match(cases)).average_precisions(weights)
    monkeypatch.setattr(ranking, "CELLS_AT_ONCE", 2 * len(cases))
    np.testing.assert_array_equal(Ranking(cases, match(cases)).average_precisions(weights), whole)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int64, np.float32])
def test_any_kind_of_number_is_a_weight(dtype):
    cases = make_cases(random_pictures(4))
    ranks = Ranking(cases, match(cases))
    weights = np.random.default_rng(4).integers(0, 2, (3, len(cases)))
    np.testing.assert_array_equal(
        ranks.average_precisions(weights.astype(dtype)), ranks.average_precisions(weights.astype(float))
    )


def test_only_the_proportions_of_weights_matter():
    cases = make_cases(random_pictures(5))
    ranks = Ranking(cases, match(cases))
    weights = np.random.default_rng(5).integers(0, 3, (4, len(cases)))
    np.testing.assert_allclose(ranks.average_precisions(weights / 4), ranks.average_precisions(weights), atol=1e-12)


def test_a_species_that_was_not_drawn_has_no_average():
    cases = make_cases([([(0, WHOLE)], [(0, 0.9, WHOLE)]), ([(1, WHOLE)], [(1, 0.9, ELSEWHERE)])])
    result = Ranking(cases, match(cases, [0.5])).average_precisions(np.array([[1, 0], [0, 2], [0, 0]]))
    np.testing.assert_allclose(result[..., 0], [[1, NAN, NAN], [NAN, 0, NAN], [NAN, NAN, NAN]])


NOTHING = [
    ("no picture", []),
    ("a blank", [([], [])]),
    ("a blank with detections", [([], [(0, 0.5, WHOLE)])]),
    ("an animal nobody saw", [([(0, WHOLE)], [])]),
    ("an animal seen elsewhere", [([(0, WHOLE)], [(0, 0.5, ELSEWHERE)])]),
]


@pytest.mark.parametrize("pictures", [pytest.param(row[1], id=row[0]) for row in NOTHING])
def test_nothing_to_rank_is_no_mistake(pictures):
    cases = make_cases(pictures)
    result = Ranking(cases, match(cases)).average_precisions(np.ones((2, len(cases))))
    expected = np.where(cases.boxes_of_species > 0, 0, NAN)[:, None]
    np.testing.assert_array_equal(result, np.broadcast_to(expected, (2, 3, 10)))
