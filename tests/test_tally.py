"""At one threshold, what does each picture add up to?  Held against scikit-learn, naive counting, and sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from ena24ssd.cases import Cases, Found, Truth
from ena24ssd.matching import match
from ena24ssd.ranking import pooled_curve
from ena24ssd.tally import SUMS, figures, species_figures, tally

SPECIES = ("fox", "deer", "hare")
LEFT, RIGHT = (0, 0, 40, 40), (50, 0, 100, 40)  # two places of a picture
NAN = np.nan
DEFINED_WITHOUT_PICTURES = {"detection/detections": 0, "detection/boxes": 0}


def cases_of(*pictures: tuple[list, list], species: tuple[str, ...] = SPECIES) -> Cases:
    """Pictures of 100 x 100, each what is there, (name, box), and what was found, (name, score, box)."""
    truth = [(place, species.index(name), *box) for place, (there, _) in enumerate(pictures) for name, box in there]
    found = [(place, species.index(name), s, *box) for place, (_, seen) in enumerate(pictures) for name, s, box in seen]
    real, seen = np.array(truth, dtype=float).reshape(-1, 6), np.array(found, dtype=float).reshape(-1, 7)
    cases = Cases(
        species,
        tuple(f"{place}.jpg" for place in range(len(pictures))),
        np.full((len(pictures), 2), 100.0),
        Truth(real[:, 0].astype(np.int64), real[:, 1].astype(np.int64), real[:, 2:]),
        Found(seen[:, 0].astype(np.int64), seen[:, 1].astype(np.int64), seen[:, 2], seen[:, 3:]),
    )
    return cases.with_found(cases.found)


def random_cases(seed: int, pictures: int = 40, species: tuple[str, ...] = SPECIES) -> Cases:
    """Blank pictures, bad boxes, wrong species, second boxes, inventions and equal scores, all of them often."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(pictures):
        there, seen = [], []
        for _ in range(random.integers(0, 4)):
            left, top, width, height = random.integers([0, 0, 10, 10], [60, 60, 40, 40])
            there.append((random.choice(species), (left, top, left + width, top + height)))
        for _ in range(random.integers(0, 7)):
            name, box = there[random.integers(len(there))] if there and random.random() < 0.8 else (None, LEFT)
            left, top, right, bottom = box + random.integers(-1, 2, 4) * random.choice([0, 2, 5, 9])
            name = name if name and random.random() < 0.75 else random.choice(species)
            seen.append((name, random.integers(1, 11) / 10, (left, top, max(right, left + 2), max(bottom, top + 2))))
        made.append((there, seen))
    return cases_of(*made, species=species)


def figures_of(cases: Cases, threshold: float = 0.5) -> dict[str, float]:
    counted = tally(cases, match(cases), threshold)
    return {name: float(value) for name, value in figures(counted.sums.sum(axis=0), cases.class_names).items()}


FIVE = cases_of(
    ([("fox", LEFT)], [("fox", 0.9, LEFT), ("fox", 0.8, LEFT), ("deer", 0.4, RIGHT)]),  # found twice; the deer too low
    ([("fox", LEFT), ("deer", RIGHT)], [("fox", 0.5, LEFT)]),  # a score at the threshold is shown; the deer is missed
    ([("deer", LEFT)], [("hare", 0.7, LEFT), ("deer", 0.6, (0, 0, 40, 30))]),  # taken for two species, one is right
    ([], [("hare", 0.9, LEFT), ("hare", 0.9, RIGHT)]),
    ([], [("hare", 0.49, LEFT)]),
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("detection/detections", 7),
        ("detection/boxes", 4),
        ("detection/precision", 3 / 7),
        ("detection/recall", 3 / 4),
        ("detection/f1", 6 / 11),
        ("detection/mean_iou", (1 + 1 + 1 + 0 + 0.75 + 0 + 0) / 7),
        ("presence/precision", 3 / 5),
        ("presence/recall", 3 / 4),
        ("presence/f1", 6 / 9),
        ("presence/macro_f1", (1 + 2 / 3) / 2),  # fox and deer; hare is on no picture
        ("presence/exact", 2 / 5),
        ("blank/sensitivity", 1),
        ("blank/specificity", 1 / 2),
        ("blank/false_boxes_per_100", 100),
        ("blank/skipped", 1 / 5),
    ],
)
def test_five_pictures_by_hand(name, value):
    assert figures_of(FIVE)[name] == pytest.approx(value, abs=1e-12)


def test_species_by_hand():
    counted = tally(FIVE, match(FIVE), 0.5)
    assert {name: values.tolist() for name, values in species_figures(counted.sums.sum(axis=0), SPECIES).items()} == {
        "precision": [1, 1, 0],
        "recall": [1, 0.5, pytest.approx(NAN, nan_ok=True)],
        "f1": [1, 2 / 3, 0],
        "pictures": [2, 2, 0],
    }


def test_every_column_has_a_name():
    counted = tally(FIVE, match(FIVE), 0.5)
    assert counted.sums.shape == (5, len(counted.columns)) and counted.sums.dtype == np.float64
    totals = dict(zip(counted.columns, counted.sums.sum(axis=0).tolist()))
    assert list(totals)[: len(SUMS)] == list(SUMS)
    assert totals["shown"] == 7 and totals["boxes_on_blanks"] == 2 and totals["invented/hare"] == 2
    assert [totals[f"found/{name}"] for name in SPECIES] == [2, 1, 0] and totals["missed/deer"] == 1


NOTHING_SHOWN = {
    "detection/precision": NAN,
    "detection/mean_iou": NAN,
    "presence/precision": NAN,
    "detection/detections": 0,
}
NOTHING_THERE = {"detection/recall": NAN, "presence/recall": NAN, "presence/macro_f1": NAN, "blank/sensitivity": NAN}
NO_BLANKS = {"blank/specificity": NAN, "blank/false_boxes_per_100": NAN}
DEGENERATE = {
    "no picture at all": ([], dict.fromkeys(figures_of(FIVE), NAN) | DEFINED_WITHOUT_PICTURES),
    "blank pictures, nothing found": (
        [([], [])] * 3,
        NOTHING_SHOWN
        | NOTHING_THERE
        | {"detection/f1": NAN, "presence/f1": NAN, "presence/exact": 1, "blank/specificity": 1, "blank/skipped": 1}
        | {"blank/false_boxes_per_100": 0, "detection/boxes": 0},
    ),
    "blank pictures, something found": (
        [([], [("fox", 0.9, LEFT)])] * 2,
        NOTHING_THERE
        | dict.fromkeys(("detection/precision", "detection/f1", "detection/mean_iou"), 0)
        | {"detection/detections": 2, "detection/boxes": 0, "blank/skipped": 0, "blank/false_boxes_per_100": 100}
        | dict.fromkeys(("presence/precision", "presence/f1", "presence/exact", "blank/specificity"), 0),
    ),
    "animals, nothing found": (
        [([("fox", LEFT)], [])],
        NOTHING_SHOWN
        | NO_BLANKS
        | dict.fromkeys(("detection/recall", "detection/f1", "presence/recall", "presence/f1", "presence/macro_f1"), 0)
        | {"presence/exact": 0, "blank/sensitivity": 0, "blank/skipped": 1, "detection/boxes": 1},
    ),
    "one animal a picture, all found": (
        [([("fox", LEFT)], [("fox", 0.9, LEFT)])] * 2,
        dict.fromkeys(figures_of(FIVE), 1)
        | NO_BLANKS
        | {"detection/detections": 2, "detection/boxes": 2, "blank/skipped": 0},
    ),
}


@pytest.mark.parametrize(("pictures", "expected"), DEGENERATE.values(), ids=DEGENERATE)
def test_where_there_is_little_or_nothing(pictures, expected):
    assert figures_of(cases_of(*pictures)) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("threshold", [0, 0.5, 0.95, 1.1], ids="threshold {}".format)
def test_presence_is_what_scikit_learn_says(seed, threshold):
    cases = random_cases(seed)
    there, seen = np.zeros((2, len(cases), len(SPECIES)), dtype=int)
    there[cases.truth.picture, cases.truth.label] = 1
    shown = cases.found.score >= threshold
    seen[cases.found.picture[shown], cases.found.label[shown]] = 1
    got = figures_of(cases, threshold)
    for average, names in {"micro": ("precision", "recall", "f1"), "macro": (None, None, "macro_f1")}.items():
        expected = precision_recall_fscore_support(there, seen, average=average, zero_division=np.nan)
        for name, value in zip(names, expected):
            if name:
                assert got[f"presence/{name}"] == pytest.approx(value, nan_ok=True)
    assert got["presence/exact"] == pytest.approx(accuracy_score(there, seen))
    counted = tally(cases, match(cases), threshold)
    each = species_figures(counted.sums.sum(axis=0), SPECIES)
    expected = precision_recall_fscore_support(there, seen, zero_division=np.nan)
    for name, values in zip(("precision", "recall", "f1", "pictures"), expected):
        np.testing.assert_allclose(each[name], values, err_msg=name)
    animal, flagged = there.any(axis=1), seen.any(axis=1)
    assert got["blank/sensitivity"] == pytest.approx(np.mean(flagged[animal]))
    assert got["blank/specificity"] == pytest.approx(np.mean(~flagged[~animal]))
    assert got["blank/skipped"] == pytest.approx(np.mean(~flagged))


@pytest.mark.parametrize("seed", range(3))
def test_a_species_that_is_nowhere_does_not_enter_the_macro_mean(seed):
    cases = random_cases(seed, species=SPECIES[:2])
    wider = Cases((*SPECIES, "bear"), cases.ids, cases.sizes, cases.truth, cases.found)
    there, seen = np.zeros((2, len(cases), 4), dtype=int)
    there[cases.truth.picture, cases.truth.label] = 1
    seen[cases.found.picture, cases.found.label] = 1
    expected = f1_score(there, seen, labels=[0, 1], average="macro")
    assert figures_of(wider, 0)["presence/macro_f1"] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_box_figures_are_those_of_the_curve(seed):
    cases = random_cases(seed)
    curve = pooled_curve(cases, match(cases))
    for place, threshold in enumerate(curve.scores.tolist()):
        got = figures_of(cases, threshold)
        assert got["detection/precision"] == pytest.approx(curve.precision[place])
        assert got["detection/recall"] == pytest.approx(curve.recall[place])
        assert got["detection/f1"] == pytest.approx(curve.f1[place])


def test_many_draws_of_pictures_at_once():
    cases = random_cases(1)
    counted = tally(cases, match(cases), 0.5)
    weights = np.random.default_rng(0).integers(0, 3, (5, len(cases)))
    totals = weights @ counted.sums
    got, each = figures(totals, SPECIES), species_figures(totals, SPECIES)
    for draw, weight in enumerate(weights):
        repeated = np.repeat(counted.sums, weight, axis=0).sum(axis=0)
        for name, value in figures(repeated, SPECIES).items():
            np.testing.assert_allclose(got[name][draw], value, rtol=1e-12, err_msg=name)
        for name, values in species_figures(repeated, SPECIES).items():
            np.testing.assert_array_equal(each[name][draw], values, err_msg=name)
    assert figures(totals.reshape(5, 1, -1), SPECIES)["presence/f1"].shape == (5, 1)


def test_what_goes_beyond_a_hundred_of_a_species_is_not_counted():
    cases = cases_of(([("fox", LEFT)], [("fox", 0.9, LEFT)] * 120))
    assert figures_of(cases)["detection/detections"] == 100
