"""What goes wrong, and what does it cost?

`confuse` counts which species was taken for which. `analyse` sorts wrong detections by what is wrong with them, after
TIDE (Bolya, Foley, Hays and Hoffman: TIDE, A General Toolbox for Identifying Object Detection Errors, ECCV 2020,
https://arxiv.org/abs/2008.08115), and says how much mAP each kind costs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ena24ssd.cases import Cases
from ena24ssd.matching import Matches, pair_boxes
from ena24ssd.ranking import average_precision

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU from which a detection has found a box; and from which it is about a box at all
KINDS = ("species", "box", "species and box", "duplicate", "background")
MISSED = "missed"
SPECIES, BOX, BOTH, DUPLICATE, NOTHING = range(1, len(KINDS) + 1)


@dataclass(frozen=True)
class Mistakes:
    """What is wrong with the detections of score ``threshold`` or more, and what it costs.

    ``counts`` and ``costs`` have an entry for each of `KINDS` and for "missed". ``costs`` is the rise of mAP at IoU .5
    (0..1) if this kind alone were mended, over detections of any score; NaN where there are no true boxes. Costs do
    not add up to what is lacking: one mistake hides another.
    """

    threshold: float
    right: int  # detections
    counts: dict[str, int]  # detections of each kind; of "missed", true boxes
    costs: dict[str, float]
    map50: float  # what the costs are measured from; mean over species with true boxes, NaN where there are none
    kind_of: np.ndarray  # (D,) int8: 0 right, k for KINDS[k - 1], -1 below the threshold or not counted

    @property
    def shares(self) -> dict[str, float]:
        """The share of each kind in all mistakes; NaN where there are none."""
        total = sum(self.counts.values())
        return {kind: count / total if total else np.nan for kind, count in self.counts.items()}


def confuse(cases: Cases, threshold: float, overlap: float = FOREGROUND) -> np.ndarray:
    """Which species was taken for which?

    Detections of score ``threshold`` or more choose among the boxes of their picture, the best score first: a free box
    of their own species with IoU ``overlap`` or more, if there is one, else one of another species; of several the one
    they overlap most, of equals the later one. A detection that chose a box of another species keeps it from a worse
    one of the right species: what counts is what the model says first.

    Returns (C + 1, C + 1) int64: rows, the species there, last "nothing there"; columns, the species found, last
    "missed". A row adds up to the true boxes of its species, a column to the detections of its species. The
    last cell is 0: no one can count what is not there and was not found.
    """
    species, found, truth = len(cases.class_names), cases.found, cases.truth
    shown = found.score >= threshold
    detection, box, iou = _close_pairs(cases, overlap, shown)
    other = found.label[detection] != truth.label[box]
    order = np.lexsort((-box, -iou, other, detection))  # detections stand best first in their picture
    finder, finding = np.full(len(truth.label), -1), np.full(len(found.label), -1)
    for one, its in zip(detection[order].tolist(), box[order].tolist()):
        if finder[its] < 0 and finding[one] < 0:
            finder[its], finding[one] = one, its
    table = np.zeros((species + 1, species + 1), dtype=np.int64)
    np.add.at(table, (truth.label, np.where(finder < 0, species, np.append(found.label, species)[finder])), 1)
    np.add.at(table, (species, found.label[shown & (finding < 0)]), 1)
    return table


def analyse(cases: Cases, matches: Matches, threshold: float) -> Mistakes:
    """Sort the wrong detections by kind, and mend one kind at a time.

    Right or wrong is as in ``matches`` at IoU .5. A wrong detection is of the first of these kinds that fits, as in
    TIDE's own program; "own" and "other" are true boxes of its species and of others in its picture:

    1. "box": IoU with the nearest own box at least .1, under .5;
    2. "species": IoU with the nearest other box at least .5;
    3. "duplicate": IoU with an own box at least .5, which another detection found;
    4. "species and box": IoU with the nearest other box at least .1, under .5;
    5. "background": about no box.

    "missed" is a true box that no detection found and none of kind "box" or "species" is about. Mending: of the
    detections of kind "box", or of kind "species", about one box that was not found the best-scored becomes right, all
    others of the kind go away; of the kinds 3 to 5 all go away; missed boxes are no longer asked for, as if found with
    the precision of the rest (of a species with no box left, AP is then 1 without detections, else 0).

    What differs from TIDE's program: at exactly IoU .5 a second detection is a duplicate; a box is given to the best of
    each kind, as the paper says, even if one of the other kind scores more; a hundred detections count for each
    species of a picture; a species without true boxes does not enter the mean.
    """
    found, truth, species = cases.found, cases.truth, len(cases.class_names)
    level = matches.at(FOREGROUND)
    right, finder = matches.right[level], matches.found_by[level]
    detection, box, iou = _close_pairs(cases, BACKGROUND, matches.counted)
    own = found.label[detection] == truth.label[box]
    (own_iou, own_box), (other_iou, other_box) = (
        _nearest(detection[some], box[some], iou[some], len(right)) for some in (own, ~own)
    )
    tests = {
        0: right,
        BOX: (own_iou >= BACKGROUND) & (own_iou < FOREGROUND),
        SPECIES: other_iou >= FOREGROUND,
        DUPLICATE: own_iou >= FOREGROUND,
        BOTH: other_iou >= BACKGROUND,
    }
    kind = np.select(list(tests.values()), list(tests), NOTHING).astype(np.int8)
    about = np.select([kind == BOX, kind == SPECIES], [own_box, other_box], -1)  # (D,) the box that mending would give

    shown = matches.counted & (found.score >= threshold)
    counts = {name: int(np.sum(shown & (kind == number))) for number, name in enumerate(KINDS, 1)}
    counts[MISSED] = int(np.sum(_missed(finder, about, shown)))

    boxes = cases.boxes_of_species
    map50 = _mean_ap(found.score, found.label, right, matches.counted, boxes, boxes)
    mended = {}
    for number, name in enumerate(KINDS, 1):
        of_kind = kind == number
        chosen = _best_of_each(of_kind & (about >= 0) & (np.append(finder, 0)[about] < 0), about, found.score)
        kept = matches.counted & ~of_kind
        kept[chosen] = True
        label, now_right = found.label.copy(), right.copy()
        label[chosen], now_right[chosen] = truth.label[about[chosen]], True
        mended[name] = _mean_ap(found.score, label, now_right, kept, boxes, boxes)
    missed = np.bincount(truth.label[_missed(finder, about, matches.counted)], minlength=species)
    mended[MISSED] = _mean_ap(found.score, found.label, right, matches.counted, boxes - missed, boxes)
    costs = {name: value - map50 for name, value in mended.items()}
    return Mistakes(threshold, int(np.sum(shown & right)), counts, costs, map50, np.where(shown, kind, np.int8(-1)))


def _close_pairs(cases: Cases, overlap: float, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detections ``wanted`` (D,) with true boxes of their picture, whatever the species, at IoU ``overlap`` or more."""
    blind = replace(cases, class_names=("animal",), truth=cases.truth._replace(label=np.zeros_like(cases.truth.label)))
    close = []
    for detection, box, iou in pair_boxes(blind, cases.found.picture):
        chosen = wanted[detection] & (iou >= overlap)
        close.append((detection[chosen], box[chosen], iou[chosen]))
    return tuple(np.concatenate(columns) for columns in zip(*close))


def _nearest(detection: np.ndarray, box: np.ndarray, iou: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Each detection's highest IoU, (D,), 0 where it has no pair, and with which box, (D,), -1; of equals the later."""
    order = np.lexsort((box, iou, detection))
    last = order[np.flatnonzero(np.diff(detection[order], append=-1))]
    highest, nearest = np.zeros(count), np.full(count, -1)
    highest[detection[last]], nearest[detection[last]] = iou[last], box[last]
    return highest, nearest


def _best_of_each(wanted: np.ndarray, about: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The position of the best-scored of the detections ``wanted`` about each box; of equals the first."""
    some = np.flatnonzero(wanted)
    order = some[np.lexsort((-scores[some], about[some]))]
    return order[np.flatnonzero(np.diff(about[order], prepend=-1))]


def _missed(finder: np.ndarray, about: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Whether a true box is neither found nor nearly found by what is ``shown``, (T,)."""
    touched = np.append(shown, False)[finder]  # finder is -1 where there is none
    touched[about[shown & (about >= 0)]] = True
    return ~touched


def _mean_ap(
    scores: np.ndarray, labels: np.ndarray, right: np.ndarray, kept: np.ndarray, boxes: np.ndarray, there: np.ndarray
) -> float:
    """Mean AP over the species ``there`` is any box of, (C,), with ``boxes`` (C,) to find; NaN where there is none."""
    precisions = []
    for species in np.flatnonzero(there):
        chosen = kept & (labels == species)
        precisions.append(
            average_precision(scores[chosen], right[chosen], boxes[species])
            if boxes[species]
            else float(not np.any(chosen))
        )
    return float(np.mean(precisions)) if precisions else np.nan
