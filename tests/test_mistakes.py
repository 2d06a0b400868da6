"""What goes wrong, and what does it cost?  Held against scikit-learn, tables by hand, and TIDE done naively."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix
from test_tally import LEFT, RIGHT, SPECIES, cases_of, random_cases

from ena24ssd.boxes import iou
from ena24ssd.cases import Cases
from ena24ssd.matching import match
from ena24ssd.mistakes import KINDS, MISSED, analyse, confuse
from ena24ssd.ranking import average_precision

HALF = (0, 0, 40, 20)  # IoU .5 with LEFT
FIFTH = (0, 0, 40, 8)  # IoU .2
TENTH = (0, 0, 40, 4)  # IoU .1
SLIVER = (0, 0, 40, 2)  # IoU .05
FOX, DEER, HARE, NOBODY = range(4)

CONFUSIONS = {
    "found": ([("fox", LEFT)], [("fox", 0.9, LEFT)], {(FOX, FOX): 1}),
    "missed": ([("fox", LEFT)], [], {(FOX, NOBODY): 1}),
    "invented": ([], [("fox", 0.9, LEFT)], {(NOBODY, FOX): 1}),
    "below the threshold": ([("fox", LEFT)], [("fox", 0.49, LEFT)], {(FOX, NOBODY): 1}),
    "taken for another": ([("fox", LEFT)], [("deer", 0.9, LEFT)], {(FOX, DEER): 1}),
    "the better score has the box, though of the wrong species": (
        [("fox", LEFT)],
        [("deer", 0.9, LEFT), ("fox", 0.8, LEFT)],
        {(FOX, DEER): 1, (NOBODY, FOX): 1},
    ),
    "found twice": ([("fox", LEFT)], [("fox", 0.9, LEFT), ("fox", 0.8, HALF)], {(FOX, FOX): 1, (NOBODY, FOX): 1}),
    "a box of the right species comes before a nearer one of another": (
        [("deer", LEFT), ("fox", HALF)],
        [("fox", 0.9, LEFT)],
        {(FOX, FOX): 1, (DEER, NOBODY): 1},
    ),
    "its own box is taken, so it takes the other": (
        [("fox", LEFT), ("deer", HALF)],
        [("fox", 0.9, LEFT), ("fox", 0.8, HALF)],
        {(FOX, FOX): 1, (DEER, FOX): 1},
    ),
    "of two others the nearer one": (
        [("deer", HALF), ("hare", (0, 0, 40, 30))],
        [("fox", 0.9, LEFT)],
        {(HARE, FOX): 1, (DEER, NOBODY): 1},
    ),
    "of two others alike the later one": (
        [("deer", LEFT), ("hare", LEFT)],
        [("fox", 0.9, LEFT)],
        {(HARE, FOX): 1, (DEER, NOBODY): 1},
    ),
    "an overlap of exactly .5 is enough": ([("fox", LEFT)], [("fox", 0.9, HALF)], {(FOX, FOX): 1}),
    "too little overlap is both": ([("fox", LEFT)], [("fox", 0.9, FIFTH)], {(FOX, NOBODY): 1, (NOBODY, FOX): 1}),
    "nothing there, nothing found": ([], [], {}),
}


@pytest.mark.parametrize(("there", "seen", "expected"), CONFUSIONS.values(), ids=CONFUSIONS)
def test_what_was_taken_for_what(there, seen, expected):
    table = confuse(cases_of((there, seen)), 0.5)
    assert table.shape == (4, 4) and table.dtype == np.int64
    assert {tuple(cell): int(table[tuple(cell)]) for cell in np.argwhere(table).tolist()} == expected


def test_no_pictures_confuse_nothing():
    assert confuse(cases_of(), 0.5).tolist() == np.zeros((4, 4)).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_one_box_a_picture_is_scikit_learns_confusion_matrix(seed):
    random = np.random.default_rng(seed)
    there, seen = random.integers(0, 4, (2, 200))  # 3: nothing there, nothing found
    pictures = [
        ([(SPECIES[t], LEFT)] if t < NOBODY else [], [(SPECIES[s], 0.9, LEFT)] if s < NOBODY else [])
        for t, s in zip(there, seen)
    ]
    expected = confusion_matrix(there, seen, labels=range(4))
    expected[NOBODY, NOBODY] = 0  # pictures that are blank to both
    np.testing.assert_array_equal(confuse(cases_of(*pictures), 0.5), expected)


@pytest.mark.parametrize("seed", range(8))
def test_confusion_is_what_choosing_one_by_one_gives(seed):
    cases = random_cases(seed)
    expected = np.zeros((4, 4), dtype=int)
    found, truth = cases.found, cases.truth
    for place in range(len(cases)):
        free = np.flatnonzero(truth.picture == place).tolist()
        for one in np.flatnonzero((found.picture == place) & (found.score >= 0.3)):
            near = [box for box in free if iou([found.box[one]], [truth.box[box]])[0, 0] >= 0.5 - 1e-12]
            ranked = [
                (truth.label[b] == found.label[one], iou([found.box[one]], [truth.box[b]])[0, 0], b) for b in near
            ]
            box = max(ranked, default=(0, 0, None))[2]
            expected[NOBODY if box is None else truth.label[box], found.label[one]] += 1
            free = [other for other in free if other != box]
        for box in free:
            expected[truth.label[box], NOBODY] += 1
    table = confuse(cases, 0.3)
    np.testing.assert_array_equal(table, expected)
    np.testing.assert_array_equal(table[:NOBODY].sum(axis=1), cases.boxes_of_species)
    np.testing.assert_array_equal(
        table[:, :NOBODY].sum(axis=0), np.bincount(found.label[found.score >= 0.3], minlength=3)
    )


KIND_ROWS = {
    "right": ([("fox", LEFT)], [("fox", 0.9, LEFT)], ["right"], 0),
    "right at exactly .5": ([("fox", LEFT)], [("fox", 0.9, HALF)], ["right"], 0),
    "a poor box": ([("fox", LEFT)], [("fox", 0.9, FIFTH)], ["box"], 0),
    "a poor box at exactly .1": ([("fox", LEFT)], [("fox", 0.9, TENTH)], ["box"], 0),
    "hardly any overlap": ([("fox", LEFT)], [("fox", 0.9, SLIVER)], ["background"], 1),
    "another species": ([("fox", LEFT)], [("deer", 0.9, LEFT)], ["species"], 0),
    "another species and a poor box": ([("fox", LEFT)], [("deer", 0.9, FIFTH)], ["species and box"], 1),
    "another species and a poor box at exactly .1": ([("fox", LEFT)], [("deer", 0.9, TENTH)], ["species and box"], 1),
    "of two boxes alike the later is found, and the poor box is about that one": (
        [("fox", LEFT), ("fox", LEFT)],
        [("fox", 0.9, LEFT), ("fox", 0.8, FIFTH)],
        ["right", "box"],
        1,
    ),
    "found twice": ([("fox", LEFT)], [("fox", 0.9, LEFT), ("fox", 0.8, LEFT)], ["right", "duplicate"], 0),
    "found twice, the second at exactly .5": (
        [("fox", LEFT)],
        [("fox", 0.9, LEFT), ("fox", 0.8, HALF)],
        ["right", "duplicate"],
        0,
    ),
    "found, and a second poor box": ([("fox", LEFT)], [("fox", 0.9, LEFT), ("fox", 0.8, FIFTH)], ["right", "box"], 0),
    "a poor box comes before another species": (
        [("fox", FIFTH), ("deer", LEFT)],
        [("fox", 0.9, LEFT)],
        ["box"],
        1,  # the deer: the fox's box would be mended, not the species
    ),
    "another species comes before a duplicate": (
        [("fox", LEFT), ("deer", LEFT)],
        [("fox", 0.9, LEFT), ("fox", 0.8, LEFT)],
        ["right", "species"],
        0,
    ),
    "nothing in the picture": ([], [("fox", 0.9, LEFT)], ["background"], 0),
    "somewhere else in the picture": ([("fox", LEFT)], [("fox", 0.9, RIGHT)], ["background"], 1),
    "missed": ([("fox", LEFT), ("deer", RIGHT)], [], [], 2),
    "below the threshold": ([("fox", LEFT)], [("fox", 0.9, LEFT), ("deer", 0.4, LEFT)], ["right", None], 0),
    "found, but below the threshold": ([("fox", LEFT)], [("fox", 0.4, LEFT)], [None], 1),
    "a poor box above the threshold, a good one below": (
        [("fox", LEFT)],
        [("fox", 0.9, FIFTH), ("fox", 0.4, LEFT)],
        ["box", None],
        0,
    ),
}
NAMES = {-1: None, 0: "right", **dict(enumerate(KINDS, 1))}


@pytest.mark.parametrize(("there", "seen", "kinds", "missed"), KIND_ROWS.values(), ids=KIND_ROWS)
def test_what_is_wrong_with_a_detection(there, seen, kinds, missed):
    cases = cases_of(([], []), (there, seen))
    mistakes = analyse(cases, match(cases), 0.5)
    assert [NAMES[kind] for kind in mistakes.kind_of.tolist()] == kinds
    assert mistakes.counts == {kind: kinds.count(kind) for kind in KINDS} | {MISSED: missed}
    assert mistakes.right == kinds.count("right")
    total = sum(mistakes.counts.values())
    expected = {kind: count / total if total else np.nan for kind, count in mistakes.counts.items()}
    assert mistakes.shares == pytest.approx(expected, nan_ok=True)


COSTS = {
    "nothing to mend": ([("fox", LEFT)], [("fox", 0.9, LEFT)], 1, {}),
    "one poor box": ([("fox", LEFT)], [("fox", 0.9, FIFTH)], 0, {"box": 1}),
    "two poor boxes of one animal: one is mended, the other goes": (
        [("fox", LEFT)],
        [("fox", 0.9, FIFTH), ("fox", 0.8, FIFTH)],
        0,
        {"box": 1},
    ),
    "one wrong species": ([("fox", LEFT)], [("deer", 0.9, LEFT)], 0, {"species": 1}),
    "a wrong species and, scored higher, a poor box of one animal: either would do": (
        [("fox", LEFT)],
        [("fox", 0.9, FIFTH), ("deer", 0.8, LEFT)],
        0,
        {"box": 1, "species": 0.5},  # what is mended comes second, behind the other mistake
    ),
    "an invention scored above the animal": (
        [("fox", LEFT)],
        [("fox", 0.9, RIGHT), ("fox", 0.8, LEFT)],
        0.5,
        {"background": 0.5},
    ),
    "an invention scored below costs nothing": ([("fox", LEFT)], [("fox", 0.9, LEFT), ("fox", 0.8, RIGHT)], 1, {}),
    "an invention of a species that is not there costs nothing": (
        [("fox", LEFT)],
        [("deer", 0.9, RIGHT), ("fox", 0.8, LEFT)],
        1,
        {},
    ),
    "one of two missed": ([("fox", LEFT), ("fox", RIGHT)], [("fox", 0.9, LEFT)], 51 / 101, {MISSED: 50 / 101}),
    "a species that was never found": ([("fox", LEFT), ("deer", RIGHT)], [("fox", 0.9, LEFT)], 0.5, {MISSED: 0.5}),
    "a species that was found only where it is not: no telling how it would be found": (
        [("deer", RIGHT)],
        [("deer", 0.9, LEFT)],
        0,
        {},
    ),
    "nothing found": ([("fox", LEFT)], [], 0, {MISSED: 1}),
}


@pytest.mark.parametrize(("there", "seen", "map50", "costs"), COSTS.values(), ids=COSTS)
def test_what_a_mistake_costs(there, seen, map50, costs):
    cases = cases_of((there, seen))
    mistakes = analyse(cases, match(cases), 0.95)  # a threshold does not change what mistakes cost
    assert mistakes.map50 == pytest.approx(map50)
    assert mistakes.costs == pytest.approx(dict.fromkeys((*KINDS, MISSED), 0) | costs, abs=1e-12)


@pytest.mark.parametrize("pictures", [[], [([], [("fox", 0.9, LEFT)])]], ids=["no pictures", "blank pictures only"])
def test_where_nothing_is_there_costs_have_no_meaning(pictures):
    cases = cases_of(*pictures)
    mistakes = analyse(cases, match(cases), 0.5)
    assert np.isnan(mistakes.map50) and np.isnan(list(mistakes.costs.values())).all()
    assert mistakes.counts["background"] == len(pictures) and mistakes.counts[MISSED] == 0


def naive_tide(cases: Cases, threshold: float) -> tuple[dict[str, int], dict[str, float]]:
    """Counts and mAP after mending each kind, one detection at a time, over detections of ``threshold`` or more."""
    rows, seen_boxes, about = [], set(), {}  # rows: score, label, kind, detection
    for place in range(len(cases)):
        boxes = np.flatnonzero(cases.truth.picture == place).tolist()
        found = np.flatnonzero((cases.found.picture == place) & (cases.found.score >= threshold)).tolist()
        share = {(d, b): iou([cases.found.box[d]], [cases.truth.box[b]])[0, 0] for d in found for b in boxes}
        label = {d: cases.found.label[d] for d in found}
        for d in found:
            own = [b for b in boxes if cases.truth.label[b] == label[d]]
            others = [b for b in boxes if b not in own]
            free = [(share[d, b], b) for b in own if b not in seen_boxes and share[d, b] >= 0.5]
            nearest = max((share[d, b] for b in own), default=0)
            other = max((share[d, b] for b in others), default=0)
            if free:
                kind = "right"
                seen_boxes.add(max(free)[1])
            elif 0.1 <= nearest < 0.5:
                kind = "box"
                about[d] = max((share[d, b], b) for b in own)[1]
            elif other >= 0.5:
                kind = "species"
                about[d] = max((share[d, b], b) for b in others)[1]
            elif nearest >= 0.5:
                kind = "duplicate"
            else:
                kind = "species and box" if other >= 0.1 else "background"
            rows.append((cases.found.score[d], label[d], kind, d))
    missed = [b for b in range(len(cases.truth.label)) if b not in seen_boxes and b not in about.values()]
    counts = {kind: sum(row[2] == kind for row in rows) for kind in KINDS} | {MISSED: len(missed)}

    def mean_ap(rows, boxes):
        values = []
        for species in range(len(cases.class_names)):
            mine = [(score, kind == "right") for score, label, kind, _ in rows if label == species]
            if boxes[species]:
                values.append(average_precision(*np.array(mine, dtype=float).reshape(-1, 2).T, boxes[species]))
            elif species in cases.truth.label:
                values.append(float(not mine))
        return np.mean(values)

    all_boxes = np.bincount(cases.truth.label, minlength=len(cases.class_names))
    after = {"": mean_ap(rows, all_boxes)}
    for kind in KINDS:
        best = {}
        for score, _, its, d in rows:
            if its == kind and about.get(d) not in (*seen_boxes, None) and score > best.get(about[d], (0, 0))[0]:
                best[about[d]] = score, d
        mended = {d: cases.truth.label[box] for box, (_, d) in best.items()}
        kept = [row for row in rows if row[2] != kind or row[3] in mended]
        after[kind] = mean_ap(
            [(s, mended.get(d, label), "right" if d in mended else k, d) for s, label, k, d in kept], all_boxes
        )
    after[MISSED] = mean_ap(rows, all_boxes - np.bincount(cases.truth.label[missed], minlength=len(all_boxes)))
    return counts, after


@pytest.mark.parametrize("seed", range(8))
def test_kinds_and_costs_are_those_of_naive_tide(seed):
    cases = random_cases(seed)
    matches = match(cases)
    mistakes = analyse(cases, matches, 0.4)
    assert mistakes.counts == naive_tide(cases, 0.4)[0]
    after = naive_tide(cases, 0)[1]
    assert mistakes.map50 == pytest.approx(after.pop(""))
    assert mistakes.costs == pytest.approx({kind: value - mistakes.map50 for kind, value in after.items()}, abs=1e-12)
    assert min(mistakes.costs.values()) > -1e-12  # mending never harms


def test_what_goes_beyond_a_hundred_of_a_species_is_not_counted():
    cases = cases_of(([("fox", LEFT)], [("fox", 0.9, LEFT)] * 120))
    mistakes = analyse(cases, match(cases), 0.5)
    assert mistakes.right == 1 and mistakes.counts["duplicate"] == 99
    assert np.count_nonzero(mistakes.kind_of == -1) == 20
