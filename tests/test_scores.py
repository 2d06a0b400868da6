"""What is there to say about these detections?  Every figure held against counting by hand, and against its module."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from counting import naive_choices, naive_coco, naive_figures, naive_sums
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tally import FIVE, LEFT, RIGHT, cases_of, figures_of, random_cases
from test_weighing import pick, without_ties

from ena24ssd.baselines import constant_detector, random_detector
from ena24ssd.bootstrap import Groups, group_by, group_singly, interval, resample
from ena24ssd.boxes import Box, LabelledBox
from ena24ssd.calibration import LOWEST, Calibration, fit, reliability
from ena24ssd.cameratraps import Image
from ena24ssd.cases import Cases, Found
from ena24ssd.cocoeval import evaluate_coco
from ena24ssd.matching import match
from ena24ssd.mistakes import analyse, confuse
from ena24ssd.ranking import pooled_curve, species_curves
from ena24ssd.review import apply, review_curve
from ena24ssd.scores import POINTS, Range, Scores, closing_figures, plain, quick_figures, score
from ena24ssd.tally import figures, species_figures, tally
from ena24ssd.weighing import weigh, weigh_all

NAN = math.nan
CHOSEN = Calibration(
    temperature=2.0,
    shift=-0.5,
    note=None,
    threshold=0.55,
    species_thresholds={"fox": 0.25, "deer": None},  # hare: nobody asked
    review_threshold=0.45,
    recall=0.9,
    split="validation",
    pictures=7,
    detections=9,
    reading={},
    epoch=3,
)
CHOSEN_ON_NOTHING = replace(
    CHOSEN, temperature=1.0, shift=0.0, threshold=None, species_thresholds={}, review_threshold=None
)

SCENES = {
    "five pictures": FIVE,
    "no picture": cases_of(),
    "blank pictures, nothing found": cases_of(([], []), ([], [])),
    "blank pictures, something found": cases_of(([], [("fox", 0.9, LEFT), ("fox", 0.2, RIGHT)]), ([], [])),
    "animals, nothing found": cases_of(([("fox", LEFT)], []), ([("deer", LEFT), ("fox", RIGHT)], [])),
    "a species absent from the split": cases_of(
        ([("fox", LEFT)], [("fox", 0.9, LEFT), ("hare", 0.8, RIGHT)]), ([("deer", LEFT)], [("deer", 0.7, LEFT)])
    ),
    "equal scores": cases_of(
        ([("fox", LEFT)], [("fox", 0.5, RIGHT), ("fox", 0.5, LEFT)]),
        ([("fox", LEFT)], [("fox", 0.5, LEFT), ("deer", 0.5, LEFT)]),
        ([], [("fox", 0.5, LEFT)]),
    ),
    "one box a picture": cases_of(
        ([("fox", LEFT)], [("fox", 0.9, LEFT)]),
        ([("deer", LEFT)], [("fox", 0.8, LEFT)]),
        ([("hare", LEFT)], [("hare", 0.3, (0, 0, 40, 19))]),
    ),
    "scores of exactly 0 and 1": cases_of(([("fox", LEFT)], [("fox", 1, LEFT)]), ([("fox", LEFT)], [("fox", 0, LEFT)])),
    "more than a hundred detections of a species": cases_of(
        ([("fox", RIGHT)], [("fox", 0.99 - place / 1000, LEFT) for place in range(104)] + [("fox", 0.6, RIGHT)])
    ),
    "one species in all": cases_of(([("fox", LEFT)], [("fox", 0.9, LEFT)]), ([], []), species=("fox",)),
    "random pictures": random_cases(11, pictures=15),
    "more random pictures": random_cases(12, pictures=15),
}
every_scene = pytest.mark.parametrize("cases", SCENES.values(), ids=SCENES)


@cache
def scored(name: str) -> Scores:
    """With everything that there is to be given: draws, night, calibration."""
    cases = SCENES[name]
    night = np.arange(len(cases)) % 2 == 1
    return score(cases, group_singly(len(cases)), threshold=0.5, resamples=100, calibration=CHOSEN, night=night)


@pytest.fixture(params=SCENES)
def scores(request: pytest.FixtureRequest) -> Scores:
    return scored(request.param)


def quickly(cases: Cases, **options) -> Scores:
    return score(cases, group_singly(len(cases)), **{"threshold": 0.5, "resamples": 0} | options)


def same(first: object, second: object) -> bool:
    """Whether two records or columns hold the same; NaN is NaN."""
    if hasattr(first, "__dataclass_fields__"):
        return type(first) is type(second) and same(vars(first), vars(second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, tuple | list):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, str) or first is None:
        return first == second
    return np.array_equal(first, second, equal_nan=True)


# -- the same, counted naively -----------------------------------------------------------------------------------------


@every_scene
def test_every_figure_is_what_counting_says(cases):
    uncalibrated = naive_figures(cases, 0.5, 0.9)
    for calibration in (None, CHOSEN, CHOSEN_ON_NOTHING):
        expected = uncalibrated | naive_choices(cases, 0.9, calibration)
        got = quickly(cases, recall=0.9, calibration=calibration).figures
        assert got.keys() == expected.keys()
        assert got == pytest.approx(expected, nan_ok=True, abs=1e-9)
        assert all(type(value) in (float, int) for value in got.values())


@pytest.mark.parametrize("threshold", [0, 0.3, 0.95, 1.1], ids="threshold {}".format)
def test_every_figure_at_another_threshold(threshold):
    cases = SCENES["random pictures"]
    expected = naive_figures(cases, threshold, 0.5)
    assert quickly(cases, threshold=threshold, recall=0.5).figures == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        # Both foxes, the wrong one between them: precision 1 at 51 recalls, 2/3 at 50. One deer of two.
        ("detection/map50", ((51 + 50 * 2 / 3) / 101 + 51 / 101) / 2),
        ("ap50/deer", 51 / 101),
        ("detection/map75", ((51 + 50 * 2 / 3) / 101 + 51 / 101) / 2),  # the deer's box is met at exactly .75
        ("detection/ar1", ((1 + 1) / 2 + 6 * (1 / 2) / 10) / 2),  # the deer is found at .5, .55, ... .75
        ("detection/precision", 3 / 7),
        ("presence/f1", 6 / 9),
        ("blank/specificity", 1 / 2),
        ("review/threshold", 0.5),
        ("review/recall", 1),
        ("review/skipped", 1 / 5),  # the blank picture at .49
        ("calibration/ece", (0.4 + abs(0.99 - 1) + (1 - 0.6) + 0.7 + 0.8 + (2.7 - 1)) / 9),
    ],
)
def test_five_pictures_by_hand(name, value):
    assert quickly(FIVE, recall=1).figures[name] == pytest.approx(value)


# -- the same as the modules say ---------------------------------------------------------------------------------------


def test_every_part_is_its_modules(scores):
    cases, matches = scores.cases, match(scores.cases)
    coco, totals = evaluate_coco(cases), tally(cases, matches, 0.5).sums.sum(axis=0)
    assert same(scores.matches, matches)
    assert same(scores.confusion, confuse(cases, 0.5)) and same(scores.mistakes, analyse(cases, matches, 0.5))
    assert same(scores.pooled, pooled_curve(cases, matches)) and same(scores.review, review_curve(cases))
    assert same(scores.sizes, coco.sizes) and scores.calibration is CHOSEN
    heard = matches.counted & (cases.found.score >= LOWEST)
    said, right = cases.found.score[heard], matches.right[0, heard]
    assert same(scores.reliability, reliability(said, right))
    assert same(scores.calibrated, reliability(CHOSEN.apply(said), right))
    assert scores.tuned == pytest.approx(figures_of(cases, CHOSEN.threshold), nan_ok=True)
    got = scores.figures
    for name, value in figures(totals, cases.class_names).items():
        assert got[name] == pytest.approx(float(value), nan_ok=True), name
    for name in ("map", "map50", "map75", "ar1", "ar10", "ar100"):
        assert got[f"detection/{name}"] == pytest.approx(getattr(coco, name), nan_ok=True), name
    assert (got["review/recall"], got["review/skipped"]) == pytest.approx(
        tuple(map(float, apply(cases, 0.45))), nan_ok=True
    )
    assert got["calibration/ece_calibrated"] == pytest.approx(scores.calibrated.ece, nan_ok=True)
    assert got["detection/map50"] == pytest.approx(scores.mistakes.map50, nan_ok=True)
    assert quick_figures(cases, 0.5) == pytest.approx(
        {name: got[name] for name in quick_figures(cases, 0.5)}, nan_ok=True
    )
    assert {f"detection/{name}" for name in ("map50", "map", "f1")} <= quick_figures(cases, 0.5).keys()
    closing = closing_figures(cases, 0.5)
    assert closing == pytest.approx({name: got[name] for name in closing}, nan_ok=True)
    assert {f"detection/{name}" for name in ("map50", "f1", "map_small", "ar100")} <= closing.keys()


def test_every_species_is_its_modules(scores):
    cases, matches = scores.cases, scores.matches
    coco, curves = evaluate_coco(cases), species_curves(cases, matches)
    presence = species_figures(tally(cases, matches, 0.5).sums.sum(axis=0), cases.class_names)
    assert [one.name for one in scores.species] == list(cases.class_names)
    for label, one in enumerate(scores.species):
        theirs = coco.species[label]
        assert (one.boxes, one.pictures) == (theirs.boxes, presence["pictures"][label])
        assert same([one.ap, one.ap50, one.ar], [theirs.ap, theirs.ap50, theirs.ar])
        assert same(
            [one.precision, one.recall, one.f1], [presence[key][label] for key in ("precision", "recall", "f1")]
        )
        assert same(one.curve, curves[label]) and same([one.threshold, one.best_f1], curves[label].best)
        assert one.tuned_threshold == {"fox": 0.25}.get(one.name)
        if one.boxes:
            assert scores.figures[f"ap50/{one.name}"] == one.ap50
    assert {key for key in scores.figures if key.startswith("ap50/")} == {
        f"ap50/{o.name}" for o in scores.species if o.boxes
    }


def test_counts_agree_with_one_another(scores):
    cases, shown = scores.cases, scores.cases.found.score >= 0.5
    boxes, detections = scores.confusion[:-1].sum(axis=1), scores.confusion[:, :-1].sum(axis=0)
    assert boxes.tolist() == [one.boxes for one in scores.species] == cases.boxes_of_species.tolist()
    assert detections.tolist() == np.bincount(cases.found.label[shown], minlength=len(cases.class_names)).tolist()
    assert scores.figures["detection/boxes"] == boxes.sum() == scores.pooled.boxes
    of_kinds = sum(scores.mistakes.counts.values()) - scores.mistakes.counts["missed"]
    assert scores.figures["detection/detections"] == scores.mistakes.right + of_kinds
    heard = scores.matches.counted & (cases.found.score >= LOWEST)
    assert scores.reliability.count.sum() == scores.calibrated.count.sum() == heard.sum()
    assert sum(one.pictures for one in scores.species) == len({*zip(cases.truth.picture, cases.truth.label)})
    if scores.light:
        assert sum(some["pictures"] for some in scores.light.values()) == len(cases)


# -- calibration -------------------------------------------------------------------------------------------------------


def test_without_a_calibration_the_review_is_chosen_on_these_very_pictures():
    scores = quickly(FIVE, recall=0.6)
    assert scores.figures["review/threshold"] == review_curve(FIVE).at(0.6)[0] == 0.7
    assert scores.calibration is scores.calibrated is scores.tuned is None
    assert not any(name.startswith("calibration/") for name in scores.figures if name != "calibration/ece")
    assert [one.tuned_threshold for one in scores.species] == [None] * 3


def test_what_was_chosen_on_other_pictures_is_used_here():
    scores = quickly(FIVE, recall=0.6, calibration=CHOSEN)
    assert scores.figures["review/threshold"] == 0.45 and scores.tuned == figures_of(FIVE, 0.55)
    assert scores.tuned["detection/detections"] == 6 and scores.figures["detection/detections"] == 7
    assert [one.tuned_threshold for one in scores.species] == [0.25, None, None]


def test_a_calibration_that_had_nothing_to_go_by():
    scores = quickly(FIVE, recall=0.6, calibration=CHOSEN_ON_NOTHING)
    assert scores.figures["review/threshold"] == 0.7 and scores.tuned is None
    assert scores.figures["calibration/ece_calibrated"] == scores.figures["calibration/ece"]


def test_a_calibration_fitted_elsewhere_brings_scores_nearer_to_their_word():
    fitted, judged = random_cases(20, pictures=150), random_cases(21, pictures=150)
    sure = [one.with_found(one.found._replace(score=one.found.score**0.2)) for one in (fitted, judged)]
    scores = quickly(sure[1], calibration=fit(sure[0], match(sure[0]), 0.95, "validation", 0))
    assert scores.figures["calibration/ece_calibrated"] < scores.figures["calibration/ece"] / 2


# -- ranges ------------------------------------------------------------------------------------------------------------

HAVE_RANGES = {
    *(f"detection/{name}" for name in ("map50", "map75", "map", "precision", "recall", "f1", "mean_iou")),
    *("detection/detections", "detection/boxes"),
    *(f"presence/{name}" for name in ("precision", "recall", "f1", "macro_f1", "exact")),
    *(f"blank/{name}" for name in ("sensitivity", "specificity", "false_boxes_per_100", "skipped")),
    *("review/recall", "review/skipped"),
}


def test_ranges_are_the_bootstraps():
    cases = random_cases(4, pictures=40)
    groups = group_by((place // 3 for place in range(40)), "sequences")
    scores = score(cases, groups, threshold=0.4, resamples=150, seed=9, calibration=CHOSEN)
    assert scores.ranges.keys() == HAVE_RANGES and scores.groups is groups and scores.resamples == 150
    drawn = resample(weigh(cases, scores.matches, 0.4), groups, 150, 9)
    reviewed = resample(lambda weights: dict(zip("rs", apply(cases, 0.45, weights))), groups, 150, 9)
    drawn |= {"review/recall": reviewed["r"], "review/skipped": reviewed["s"]}
    for name, both in scores.ranges.items():
        assert both == pytest.approx(interval(drawn[name], groups)), name
        assert isinstance(both, Range) and both.low < both.high, name
        assert both.low <= scores.figures[name] <= both.high, name
    for label, one in enumerate(scores.species):
        for both, name in ((one.ap50_range, "species/ap50"), (one.f1_range, "species/f1")):
            assert both == pytest.approx([end[label] for end in interval(drawn[name], groups)], nan_ok=True)
    again = score(cases, groups, threshold=0.4, resamples=150, seed=9, calibration=CHOSEN)
    other = score(cases, groups, threshold=0.4, resamples=150, seed=10, calibration=CHOSEN)
    assert again.ranges == scores.ranges != other.ranges and other.figures == pytest.approx(scores.figures, nan_ok=True)


FEW = random_cases(4, pictures=12)
NO_RANGES = {
    "zero resamples": (FEW, group_singly(12), 0),
    "too few resamples for the ends of an interval": (FEW, group_singly(12), 99),
    "four groups": (FEW, Groups(np.arange(12) % 4, "cameras"), 100),
    "one group": (FEW, Groups(np.zeros(12, dtype=np.int64), "cameras"), 100),
    "no picture": (cases_of(), group_singly(0), 100),
    "one picture": (FIVE.take(np.arange(5) == 0), group_singly(1), 100),
}


@pytest.mark.parametrize(("cases", "groups", "resamples"), NO_RANGES.values(), ids=NO_RANGES)
def test_where_no_range_can_be_told(cases, groups, resamples):
    scores = score(cases, groups, threshold=0.5, resamples=resamples)
    assert scores.ranges == {}
    assert all(same(both, (NAN, NAN)) for one in scores.species for both in (one.ap50_range, one.f1_range))
    assert scores.figures == pytest.approx(naive_figures(cases, 0.5, 0.95), nan_ok=True)
    assert scores.to_json()["ranges"]["figures"] == {}


def test_a_figure_that_no_draw_changes_has_no_range():
    scores = quickly(cases_of(*[([("fox", LEFT)], [("fox", 0.9, LEFT)])] * 8, ([], [])), resamples=100)
    assert scores.figures["detection/recall"] == 1 and "detection/recall" not in scores.ranges
    assert "blank/skipped" in scores.ranges, "but how many pictures are blank differs from draw to draw"


def test_bursts_that_are_drawn_together_widen_the_ranges():
    one = without_ties(random_cases(5, pictures=12))
    burst = pick(one, np.repeat(np.arange(12), 6).tolist())
    narrow, wide = (
        score(burst, groups, threshold=0.5, resamples=100).ranges["presence/f1"]
        for groups in (group_singly(72), Groups(np.repeat(np.arange(12), 6), "sequences"))
    )
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


# -- day and night -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["five pictures", "random pictures"])
def test_day_and_night_are_the_figures_of_these_pictures_alone(name):
    scores = scored(name)
    night = np.arange(len(scores.cases)) % 2 == 1
    for light, chosen in (("day", ~night), ("night", night)):
        alone = quickly(scores.cases.take(chosen), calibration=CHOSEN).figures
        some = dict(scores.light[light])
        assert some.pop("pictures") == chosen.sum()
        assert some.keys() == HAVE_RANGES
        assert some == pytest.approx({key: alone[key] for key in some}, nan_ok=True)


@pytest.mark.parametrize(
    ("night", "expected"),
    [
        pytest.param(None, [], id="nobody looked"),
        pytest.param([False] * 5, ["day"], id="all by day"),
        pytest.param([True] * 5, ["night"], id="all by night"),
        pytest.param([True, False, False, True, False], ["day", "night"], id="both, the day first"),
    ],
)
def test_day_and_night_are_there_where_pictures_are(night, expected):
    scores = quickly(FIVE, night=None if night is None else np.array(night))
    assert list(scores.light) == expected
    if len(expected) == 1:
        (some,) = scores.light.values()
        assert some == pytest.approx({"pictures": 5} | {key: scores.figures[key] for key in HAVE_RANGES}, nan_ok=True)


def test_no_picture_is_neither_by_day_nor_by_night():
    assert quickly(cases_of(), night=np.zeros(0, dtype=bool)).light == {}


# -- what scores without looking ---------------------------------------------------------------------------------------

DEER = LabelledBox(1, Box(0, 0, 80, 80))  # of a picture twice as large: LEFT
LEARNT = (Image("a", "a.jpg", 200, 200, (DEER,)), Image("b", "b.jpg", 200, 200, (DEER,)), Image("c", "c.jpg", 9, 9))


def test_baselines_are_their_modules(scores):
    cases = scores.cases
    assert list(scores.baselines) == ["all background", "most frequent species", "random boxes"]
    constant, guesses = constant_detector(cases, ()), random_detector(cases, (), 0)
    expected = {
        "most frequent species": weigh_all(constant, match(constant), 0.0),
        "random boxes": weigh_all(guesses, match(guesses), 0.5),
    }
    for name, some in expected.items():
        assert scores.baselines[name] == pytest.approx(some, nan_ok=True)
        assert some.keys() <= scores.figures.keys()


def test_baselines_by_hand():
    blind = quickly(FIVE, learnt=LEARNT).baselines
    nobody = naive_sums(FIVE.with_found(Found(*(column[:0] for column in FIVE.found))), 0.5)
    assert blind["all background"] == pytest.approx(
        nobody | {"detection/map": 0, "detection/map50": 0, "detection/map75": 0}, nan_ok=True
    )
    assert blind["all background"]["blank/specificity"] == 1 and blind["all background"]["blank/sensitivity"] == 0
    always = blind["most frequent species"]  # a deer at LEFT on each of five pictures: right on the third alone
    assert always["detection/detections"] == 5 and always["detection/precision"] == 1 / 5
    assert always["detection/recall"] == 1 / 4 and always["presence/precision"] == 2 / 5
    assert always["blank/specificity"] == 0 and always["blank/sensitivity"] == 1
    guesses = random_detector(FIVE, LEARNT, 3)
    assert quickly(FIVE, learnt=LEARNT, seed=3).baselines["random boxes"] == pytest.approx(
        {**naive_sums(guesses, 0.5), **{k: v for k, v in naive_coco(guesses).items() if k in HAVE_RANGES}}, nan_ok=True
    )


def test_random_boxes_are_as_many_as_the_model_shows():
    for threshold in (0, 0.5, 0.9):
        scores = quickly(SCENES["random pictures"], threshold=threshold)
        shown = scores.figures["detection/detections"]
        assert scores.baselines["random boxes"]["detection/detections"] == shown > 0


# -- json --------------------------------------------------------------------------------------------------------------


def assert_plain(value: object) -> None:
    if isinstance(value, dict):
        assert all(type(key) is str for key in value)
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            assert_plain(one)
    else:
        assert value is None or type(value) in (bool, int, float, str), repr(value)
        assert type(value) is not float or math.isfinite(value)


def unplain(value: float | None) -> float:
    return NAN if value is None else value


def test_json_is_strict_and_holds_every_figure(scores):
    document = scores.to_json()
    assert_plain(document)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert {name: unplain(value) for name, value in document["figures"].items()} == pytest.approx(
        scores.figures, nan_ok=True
    )
    assert document["ranges"]["figures"] == {name: list(both) for name, both in scores.ranges.items()}
    assert (document["ranges"]["of"], document["ranges"]["count"]) == ("pictures", len(scores.cases))
    assert (document["ranges"]["level"], document["ranges"]["draws"]) == (0.95, 100)
    for key, mine in (("baselines", scores.baselines), ("light", scores.light)):
        assert document[key].keys() == mine.keys()
        for name, some in mine.items():
            assert {k: unplain(v) for k, v in document[key][name].items()} == pytest.approx(some, nan_ok=True)
    assert document["pictures"] == len(scores.cases) and document["blanks"] == scores.cases.blank.sum()
    assert document["class_names"] == list(scores.class_names) and document["threshold"] == 0.5
    assert document["confusion"]["counts"] == scores.confusion.tolist()
    assert document["confusion"]["rows"] == [*scores.class_names, "nothing there"]
    assert document["confusion"]["columns"] == [*scores.class_names, "missed"]
    assert document["mistakes"]["counts"] == scores.mistakes.counts
    assert {k: unplain(v) for k, v in document["mistakes"]["costs"].items()} == pytest.approx(
        scores.mistakes.costs, nan_ok=True
    )
    assert document["at_tuned_threshold"].keys() == scores.tuned.keys()
    assert Calibration.from_json(document["calibration"]) == scores.calibration
    assert document["reliability"]["count"] == scores.reliability.count.tolist()
    assert unplain(document["reliability_calibrated"]["ece"]) == pytest.approx(scores.calibrated.ece, nan_ok=True)
    assert document["sizes"].keys() == scores.sizes.keys()
    for mine, theirs in zip(document["species"], scores.species, strict=True):
        assert (mine["name"], mine["boxes"], mine["pictures"]) == (theirs.name, theirs.boxes, theirs.pictures)
        for key, value in {
            **{name: getattr(theirs, name) for name in ("ap", "ap50", "ar")},
            **{"best_threshold_here": theirs.threshold, "best_f1_here": theirs.best_f1},
        }.items():
            assert unplain(mine[key]) == pytest.approx(value, nan_ok=True), key
        assert mine["tuned_threshold"] == theirs.tuned_threshold
        for key, value in mine["presence"].items():
            assert unplain(value) == pytest.approx(getattr(theirs, key), nan_ok=True)
        for key, both in (("ap50_range", theirs.ap50_range), ("presence_f1_range", theirs.f1_range)):
            assert [unplain(end) for end in mine[key]] == pytest.approx(list(both), nan_ok=True)
        assert [unplain(value) for value in mine["curve"]["recall"]] == pytest.approx(theirs.curve.recall, nan_ok=True)


def test_json_of_what_was_not_asked_for_is_null():
    document = quickly(FIVE).to_json()
    assert_plain(document)
    keys = ("at_tuned_threshold", "calibration", "reliability_calibrated")
    assert [document[key] for key in keys] == [None] * 3
    assert document["light"] == {} and [one["tuned_threshold"] for one in document["species"]] == [None] * 3


@pytest.mark.parametrize("detections", [0, 1, POINTS - 1, POINTS, POINTS + 1, 3000])
def test_json_is_thin_however_many_detections_there_are(detections):
    pictures = max(1, detections // 50)
    found = [[] for _ in range(pictures)]
    for number in range(detections):
        found[number % pictures].append(("fox", (number + 1) / (detections + 1), LEFT if number % 3 else RIGHT))
    cases = cases_of(*(([("fox", LEFT)], some) for some in found))
    scores = quickly(cases)
    document = scores.to_json()
    curves = [(document["pooled_curve"], scores.pooled), (document["species"][0]["curve"], scores.species[0].curve)]
    for thin, whole in curves:
        assert {len(column) for column in thin.values()} == {min(detections, POINTS)}
        for name, column in (("score", whole.scores), ("precision", whole.precision), ("recall", whole.recall)):
            assert [*thin[name][:1], *thin[name][-1:]] == [*column[:1], *column[-1:]], "the ends are kept"
            assert set(thin[name]) <= set(column.tolist())
    for name, column in vars(scores.review).items():
        assert set(document["review"][name]) <= set(column.tolist()) and len(document["review"][name]) <= POINTS
    assert len(json.dumps(document)) < 60_000


def test_plain_values():
    value = {1: np.float32(0.5), "x": (np.int64(3), [NAN, np.inf, np.float64("nan")]), "y": np.array([[1.0, NAN]])}
    value |= {
        "none": None,
        "yes": np.bool_(True),
        "range": Range(0.25, NAN),
        "text": np.str_("fox"),
        "point": np.array(2),
    }
    got = plain(value)
    assert got == {
        **{"1": 0.5, "x": [3, [None, None, None]], "y": [[1.0, None]]},
        **{"none": None, "yes": True, "range": [0.25, None], "text": "fox", "point": 2},
    }
    assert_plain(got)


# -- the order of pictures ---------------------------------------------------------------------------------------------


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 100), st.permutations(range(14)))
def test_figures_do_not_depend_on_the_order_of_the_pictures(seed, order):
    cases, bursts, night = without_ties(random_cases(seed, pictures=14), seed), np.arange(14) // 2, np.arange(14) > 8
    straight, mixed = (
        score(
            pick(cases, list(places)),
            Groups(bursts[list(places)], "sequences"),
            threshold=0.4,
            resamples=100,
            calibration=CHOSEN,
            night=night[list(places)],
        )
        for places in (range(14), order)
    )
    for name in ("figures", "tuned"):
        assert getattr(mixed, name) == pytest.approx(getattr(straight, name), nan_ok=True)
    assert mixed.ranges.keys() == straight.ranges.keys()
    for name, both in straight.ranges.items():
        assert mixed.ranges[name] == pytest.approx(both), name
    for light, some in straight.light.items():
        assert mixed.light[light] == pytest.approx(some, nan_ok=True)
    assert same(mixed.confusion, straight.confusion) and mixed.mistakes.counts == straight.mistakes.counts
    assert mixed.mistakes.costs == pytest.approx(straight.mistakes.costs, nan_ok=True)
    assert same(mixed.pooled, straight.pooled) and same(mixed.review, straight.review)
    for one, other in zip(straight.species, mixed.species):
        assert same([one.boxes, one.pictures, one.curve], [other.boxes, other.pictures, other.curve])
        for key in ("ap", "ap50", "ar", "precision", "recall", "f1", "ap50_range", "f1_range"):
            assert getattr(other, key) == pytest.approx(getattr(one, key), nan_ok=True), key
