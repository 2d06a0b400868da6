"""Is an animal found by the detection that COCO says found it?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ena24ssd import matching
from ena24ssd.cases import Cases, Found, Truth
from ena24ssd.matching import COCO_OVERLAPS, MOST_DETECTIONS, match

WHOLE = (0, 0, 10, 10)  # boxes on it: IoU .5 by halves, .8 by its first eight columns
HALF = (0, 0, 10, 5)
MOST = (0, 0, 8, 10)
OTHER_HALF = (0, 5, 10, 10)
ELSEWHERE = (50, 50, 60, 60)


def make_cases(pictures: Sequence[tuple[Sequence, Sequence]], species: int = 3, side: float = 100) -> Cases:
    """Cases of square pictures, each given as its true rows (label, box) and its detections (label, score, box)."""
    truth = [(place, label, *box) for place, (rows, _) in enumerate(pictures) for label, box in rows]
    found = [(place, label, score, *box) for place, (_, rows) in enumerate(pictures) for label, score, box in rows]
    real, seen = np.array(truth, dtype=float).reshape(-1, 6), np.array(found, dtype=float).reshape(-1, 7)
    cases = Cases(
        tuple(f"species {label}" for label in range(species)),
        tuple(map(str, range(len(pictures)))),
        np.full((len(pictures), 2), float(side)),
        Truth(real[:, 0].astype(np.int64), real[:, 1].astype(np.int64), real[:, 2:]),
        Found(seen[:, 0].astype(np.int64), seen[:, 1].astype(np.int64), seen[:, 2], seen[:, 3:]),
    )
    return cases.with_found(cases.found)


def random_pictures(seed: int, pictures: int = 30, species: int = 3, most: int = 6, scores: int = 8) -> list:
    """Crowded pictures on a coarse grid, so that overlaps and scores are often equal; some of them blank."""
    draw = np.random.default_rng(seed)

    def boxes(count):
        corner, sides = draw.integers(0, 6, (count, 2)), draw.integers(1, 6, (count, 2))
        return [tuple(map(float, box)) for box in np.concatenate([corner, corner + sides], axis=1)]

    def one():
        truth = boxes(draw.integers(0, most))
        found = [box for box in truth if draw.random() < 0.6] + boxes(draw.integers(0, 2 * most))
        scored = [(int(draw.integers(species)), float(draw.integers(scores + 1)) / scores, box) for box in found]
        return [(int(draw.integers(species)), box) for box in truth], scored

    return [one() for _ in range(pictures)]


def coco_evaluator(cases: Cases, sizes: dict[str, tuple[float, float]] | None = None) -> COCOeval:
    """pycocotools on the same boxes, not yet run; ``area`` is the share of the frame."""

    def dataset(rows):
        annotations = []
        for number, (place, label, (left, top, right, bottom)) in enumerate(zip(rows.picture, rows.label, rows.box), 1):
            area = (right - left) * (bottom - top) / cases.sizes[place].prod()
            score = rows.score[number - 1] if isinstance(rows, Found) else 1
            annotations.append(
                {
                    "id": number,
                    "image_id": int(place),
                    "category_id": int(label),
                    "bbox": [left, top, right - left, bottom - top],
                    "area": area,
                    "score": score,
                    "iscrowd": 0,
                }
            )
        coco = COCO()
        coco.dataset = {
            "images": [{"id": place} for place in range(len(cases))],
            "categories": [{"id": label} for label in range(len(cases.class_names))],
            "annotations": annotations,
        }
        coco.createIndex()
        return coco

    evaluator = COCOeval(dataset(cases.truth), dataset(cases.found), "bbox")
    evaluator.params.areaRng = [[0, 1e10], *(list(bounds) for bounds in (sizes or {}).values())]
    evaluator.params.areaRngLbl = ["all", *(sizes or {})]
    return evaluator


# In one picture: true boxes, detections (score falling), overlap; then which are right, and what found each box
RULES = [
    ("the same box", [(0, WHOLE)], [(0, 0.9, WHOLE)], 0.95, [1], [0]),
    ("a box of another species", [(0, WHOLE)], [(1, 0.9, WHOLE)], 0.5, [0], [-1]),
    ("an overlap of exactly what is asked", [(0, WHOLE)], [(0, 0.9, HALF)], 0.5, [1], [0]),
    ("an overlap of less", [(0, WHOLE)], [(0, 0.9, HALF)], 0.55, [0], [-1]),
    ("of two detections the better score, not the better box", [(0, WHOLE)], [(0, 0.9, MOST), (0, 0.8, WHOLE)], 0.5,
     [1, 0], [0]),
    ("the second comes in where the first falls short", [(0, WHOLE)], [(0, 0.9, MOST), (0, 0.8, WHOLE)], 0.85,
     [0, 1], [1]),
    ("equal scores: the first of them", [(0, WHOLE)], [(0, 0.9, MOST), (0, 0.9, WHOLE)], 0.5, [1, 0], [0]),
    ("of two boxes the nearer", [(0, HALF), (0, MOST)], [(0, 0.9, WHOLE)], 0.5, [1], [-1, 0]),
    ("of two boxes as near the later", [(0, HALF), (0, OTHER_HALF)], [(0, 0.9, WHOLE)], 0.5, [1], [-1, 0]),
    ("the nearer box is taken, so the other", [(0, MOST), (0, HALF)], [(0, 0.9, WHOLE), (0, 0.8, WHOLE)], 0.5,
     [1, 1], [0, 1]),
    ("the nearer box is taken, the other too far", [(0, MOST), (0, HALF)], [(0, 0.9, WHOLE), (0, 0.8, WHOLE)], 0.6,
     [1, 0], [0, -1]),
    ("two species do not compete", [(0, WHOLE), (1, WHOLE)], [(1, 0.9, WHOLE), (0, 0.8, WHOLE)], 0.5, [1, 1], [1, 0]),
    ("an animal that nobody saw", [(0, WHOLE), (0, ELSEWHERE)], [(0, 0.9, WHOLE)], 0.5, [1], [0, -1]),
    ("nothing there", [], [(0, 0.9, WHOLE), (1, 0.9, WHOLE)], 0.5, [0, 0], []),
    ("nothing found", [(0, WHOLE)], [], 0.5, [], [-1]),
    ("nothing there, nothing found", [], [], 0.5, [], []),
]  # fmt: skip


@pytest.mark.parametrize(
    ("truth", "found", "overlap", "right", "found_by"), [pytest.param(*row[1:], id=row[0]) for row in RULES]
)
def test_rule(truth, found, overlap, right, found_by):
    matches = match(make_cases([(truth, found)]), [overlap])
    assert matches.right.tolist() == [[bool(one) for one in right]]
    assert matches.found_by.tolist() == [found_by]
    assert matches.counted.all() and matches.counted.shape == (len(found),)


NEAREST = [
    ("the nearest of several", [(0, HALF), (0, MOST)], 0.8),
    ("one that another detection took", [(0, WHOLE)], 1.0),
    ("one of another species does not count", [(1, WHOLE)], 0.0),
    ("none near", [(0, ELSEWHERE)], 0.0),
    ("none at all", [], 0.0),
]


@pytest.mark.parametrize(("truth", "iou"), [pytest.param(*row[1:], id=row[0]) for row in NEAREST])
def test_iou_is_that_with_the_nearest_box_of_the_species(truth, iou):
    matches = match(make_cases([([], []), (truth, [(0, 0.9, WHOLE), (0, 0.8, WHOLE)])]))
    assert matches.iou.tolist() == pytest.approx([iou, iou])


def test_pictures_do_not_compete():
    cases = make_cases([([(0, WHOLE)], [(0, 0.5, WHOLE)]), ([], [(0, 0.9, WHOLE)]), ([(0, WHOLE)], [(0, 0.7, HALF)])])
    matches = match(cases, [0.5, 0.75])
    assert matches.right.tolist() == [[True, False, True], [True, False, False]]
    assert matches.found_by.tolist() == [[0, 2], [0, -1]]


def test_a_detection_may_be_right_only_at_a_larger_overlap():
    cases = make_cases([([(0, WHOLE)], [(0, 0.9, HALF), (0, 0.8, MOST)])])
    assert match(cases, [0.5, 0.75]).right.tolist() == [[True, False], [False, True]]


def test_after_a_hundred_of_a_species_in_a_picture_none_counts():
    crowd = [(0, 0.9, ELSEWHERE)] * MOST_DETECTIONS
    others = [(1, 0.1, WHOLE), (0, 0.2, WHOLE)]
    cases = make_cases([([(0, WHOLE), (1, WHOLE)], crowd + others), ([(0, WHOLE)], [(0, 0.1, WHOLE)])])
    matches = match(cases)
    assert cases.found.label[100:].tolist() == [0, 1, 0], "best first: the one too many, then two that count"
    assert matches.counted.tolist() == [True] * 100 + [False, True, True]
    assert matches.right[0].tolist() == [False] * 100 + [False, True, True]
    assert matches.iou[100] == 1, "it is near all the same"


def test_nothing_at_all_is_no_mistake():
    matches = match(make_cases([]))
    assert matches.right.shape == (10, 0) and matches.found_by.shape == (10, 0)
    assert matches.iou.shape == matches.counted.shape == (0,)
    assert match(make_cases([([(0, WHOLE)], [(0, 0.9, WHOLE)])]), []).right.shape == (0, 1)


def pycocotools_matches(cases: Cases) -> tuple[np.ndarray, np.ndarray]:
    """What pycocotools notes for itself: right (O, D) and found_by (O, T)."""
    evaluator = coco_evaluator(cases)
    evaluator.evaluate()
    right = np.zeros((10, len(cases.found.label)), dtype=bool)
    found_by = np.full((10, len(cases.truth.label)), -1)
    for one in filter(None, evaluator.evalImgs):
        detections, boxes = np.array(one["dtIds"], dtype=int) - 1, np.array(one["gtIds"], dtype=int) - 1
        right[:, detections] = one["dtMatches"] > 0
        found_by[:, boxes] = one["gtMatches"] - 1
    return right, found_by


def assert_as_pycocotools(cases: Cases) -> None:
    matches = match(cases)
    right, found_by = pycocotools_matches(cases)
    np.testing.assert_array_equal(matches.right, right)
    np.testing.assert_array_equal(matches.found_by, found_by)


@pytest.mark.parametrize("seed", range(5))
def test_every_match_is_pycocotools_own(seed):
    assert_as_pycocotools(make_cases(random_pictures(seed)))


def test_matches_are_pycocotools_own_in_a_crowd_beyond_a_hundred():
    assert_as_pycocotools(make_cases(random_pictures(0, pictures=2, species=1, most=120, scores=50), species=1))


EDGE = st.integers(0, 12)
SHAPE = st.tuples(EDGE, EDGE, st.integers(1, 8), st.integers(1, 8)).map(
    lambda box: (box[0] / 3, box[1] / 3, (box[0] + box[2]) / 3, (box[1] + box[3]) / 3)  # thirds round
)
LABEL = st.integers(0, 1)
SCORE = st.sampled_from((0.0, 0.25, 0.5, 1.0))
PICTURE = st.tuples(st.lists(st.tuples(LABEL, SHAPE), max_size=5), st.lists(st.tuples(LABEL, SCORE, SHAPE), max_size=7))


@settings(deadline=None, max_examples=60)
@given(st.lists(PICTURE, min_size=1, max_size=3))
def test_any_match_is_pycocotools_own(pictures):
    assert_as_pycocotools(make_cases(pictures, species=2))


def test_blocks_change_nothing(monkeypatch):
    cases = make_cases(random_pictures(7))
    whole = match(cases)
    monkeypatch.setattr(matching, "PAIRS_AT_ONCE", 7)
    parts = match(cases)
    for name in ("right", "found_by", "iou", "counted"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_rows_by_overlap():
    matches = match(make_cases([]))
    assert [matches.at(overlap) for overlap in (0.5, 0.75, 0.95, COCO_OVERLAPS[3])] == [0, 5, 9, 3]
    with pytest.raises(ValueError, match=r"overlap 0\.72 was not matched; it must be one of 0\.5, 0\.55"):
        matches.at(0.72)
