"""Are the printed figures those of pycocotools, and right by hand where pictures, animals or detections lack?"""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import astuple

import numpy as np
import pytest
from test_matching import ELSEWHERE, HALF, WHOLE, coco_evaluator, make_cases, random_pictures

from ena24ssd.cases import Cases
from ena24ssd.cocoeval import SIZES, evaluate_coco
from ena24ssd.matching import match
from ena24ssd.ranking import Ranking

NAN = math.nan


def pycocotools_figures(cases: Cases) -> tuple[list[float], np.ndarray, np.ndarray]:
    """pycocotools' own summary of twelve figures, and AP (O, C, sizes) and recall (O, C, sizes, 3)."""
    evaluator = coco_evaluator(cases, SIZES | {"large": (SIZES["large"][0], 1e10)})
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    arrays = (evaluator.stats, evaluator.eval["precision"][..., -1].mean(axis=1), evaluator.eval["recall"])
    stats, ap, recall = (np.where(values < 0, NAN, values) for values in arrays)
    return stats.tolist(), ap, recall


def nanmean(values: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(np.nanmean(values))


@pytest.mark.parametrize("species", [1, 4, 30])
@pytest.mark.parametrize("seed", range(4))
def test_every_figure_is_pycocotools_own(seed, species):
    cases = make_cases(random_pictures(seed, pictures=40, species=species), species=species + 1, side=14)
    ours = evaluate_coco(cases)
    stats, ap, recall = pycocotools_figures(cases)

    def same(value, expected):
        assert value == pytest.approx(expected, abs=1e-12, nan_ok=True)

    same([ours.map, ours.map50, ours.map75], stats[:3])
    same([size.map for size in ours.sizes.values()], stats[3:6])
    same([ours.ar1, ours.ar10, ours.ar100], stats[6:9])
    same([size.ar for size in ours.sizes.values()], stats[9:])
    same([size.map50 for size in ours.sizes.values()], [nanmean(ap[0, :, size]) for size in (1, 2, 3)])
    for label, one in enumerate(ours.species):
        expected = (ap[:, label, 0].mean(), ap[0, label, 0], ap[5, label, 0], recall[:, label, 0, -1].mean())
        same((one.ap, one.ap50, one.ap75, one.ar), expected)


@pytest.mark.parametrize("seed", range(4))
def test_the_ranking_agrees(seed):
    cases = make_cases(random_pictures(seed), species=4)
    figures = evaluate_coco(cases)
    average = Ranking(cases, match(cases)).average_precisions(np.ones((1, len(cases))))[0]  # (C, O)
    assert figures.map == pytest.approx(np.nanmean(average), abs=1e-12)
    assert figures.map50 == pytest.approx(np.nanmean(average[:, 0]), abs=1e-12)
    assert [one.ap75 for one in figures.species] == pytest.approx(average[:, 5].tolist(), abs=1e-12, nan_ok=True)


def test_a_crowd_beyond_a_hundred_agrees():
    cases = make_cases(random_pictures(1, pictures=3, species=1, most=120, scores=50), species=1)
    stats, _, _ = pycocotools_figures(cases)
    assert astuple(evaluate_coco(cases))[:6] == pytest.approx((*stats[:3], *stats[6:9]), abs=1e-12)


# pictures; then mAP, mAP50, mAP75, AR1, AR10, AR100 and AP50 of the three species
TABLE = [
    ("found exactly", [([(0, WHOLE)], [(0, 0.9, WHOLE)])], (1, 1, 1, 1, 1, 1), (1, NAN, NAN)),
    ("half of the box: right at .5 alone", [([(0, WHOLE)], [(0, 0.9, HALF)])], (0.1, 1, 0, 0.1, 0.1, 0.1),
     (1, NAN, NAN)),
    ("as another species", [([(0, WHOLE)], [(1, 0.9, WHOLE)])], (0, 0, 0, 0, 0, 0), (0, NAN, NAN)),
    ("one species of two", [([(0, WHOLE), (1, WHOLE)], [(1, 0.9, WHOLE)])], (0.5, 0.5, 0.5, 0.5, 0.5, 0.5),
     (0, 1, NAN)),
    ("a box on a blank, with less score, costs nothing", [([(0, WHOLE)], [(0, 0.9, WHOLE)]), ([], [(0, 0.8, WHOLE)])],
     (1, 1, 1, 1, 1, 1), (1, NAN, NAN)),
    ("a box on a blank, with more score, costs half", [([(0, WHOLE)], [(0, 0.8, WHOLE)]), ([], [(0, 0.9, WHOLE)])],
     (0.5, 0.5, 0.5, 1, 1, 1), (0.5, NAN, NAN)),
    ("equal scores enter picture by picture", [([(0, WHOLE)], [(0, 0.9, WHOLE)]), ([], [(0, 0.9, WHOLE)])],
     (1, 1, 1, 1, 1, 1), (1, NAN, NAN)),
    ("two animals, of which the best detection is one", [([(0, WHOLE), (0, ELSEWHERE)],
     [(0, 0.9, WHOLE), (0, 0.8, ELSEWHERE)])], (1, 1, 1, 0.5, 1, 1), (1, NAN, NAN)),
    ("nothing found", [([(0, WHOLE)], []), ([(1, WHOLE)], [])], (0, 0, 0, 0, 0, 0), (0, 0, NAN)),
    ("blanks only", [([], [(0, 0.9, WHOLE)]), ([], [])], (NAN,) * 6, (NAN, NAN, NAN)),
    ("blanks only, nothing found", [([], [])], (NAN,) * 6, (NAN, NAN, NAN)),
    ("no picture", [], (NAN,) * 6, (NAN, NAN, NAN)),
]  # fmt: skip


@pytest.mark.parametrize(("pictures", "expected", "ap50"), [pytest.param(*row[1:], id=row[0]) for row in TABLE])
def test_by_hand(pictures, expected, ap50):
    figures = evaluate_coco(make_cases(pictures))
    assert astuple(figures)[:6] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert tuple(one.ap50 for one in figures.species) == pytest.approx(ap50, abs=1e-12, nan_ok=True)
    assert [one.name for one in figures.species] == ["species 0", "species 1", "species 2"]


# a box of 10 x 10 pixels in a square frame of this side; the sizes it is in
IN_SIZE = [
    ("a hundredth: on the bound, so in both", 100, ["small", "medium"]),
    ("less than a hundredth", 101, ["small"]),
    ("a twenty-fifth", 50, ["medium"]),
    ("a quarter", 20, ["large"]),
    ("the whole frame", 10, ["large"]),
    ("more than the frame", 8, ["large"]),
]


@pytest.mark.parametrize(("side", "expected"), [pytest.param(*row[1:], id=row[0]) for row in IN_SIZE])
def test_size_is_the_share_of_the_frame(side, expected):
    figures = evaluate_coco(make_cases([([(0, WHOLE)], [(0, 0.9, WHOLE)])], side=side))
    assert [name for name, size in figures.sizes.items() if size.boxes] == expected
    for name, size in figures.sizes.items():
        assert astuple(size) == pytest.approx((1, 1, 1, 1) if name in expected else (0, NAN, NAN, NAN), nan_ok=True)


def test_boxes_are_counted_by_species_and_size():
    figures = evaluate_coco(make_cases([([(0, WHOLE), (0, HALF)], []), ([(2, (0, 0, 90, 90))], [])]))
    assert [one.boxes for one in figures.species] == [2, 0, 1]
    assert [size.boxes for size in figures.sizes.values()] == [2, 1, 1]


def test_it_says_nothing(capfd, caplog):
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        evaluate_coco(make_cases(random_pictures(0)))
        evaluate_coco(make_cases([([(0, WHOLE)], [])]))
        evaluate_coco(make_cases([]))
    assert capfd.readouterr() == ("", "") and not caplog.records
