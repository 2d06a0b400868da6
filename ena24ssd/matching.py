"""Which detection found which animal?

COCO's rule, to the letter. In one picture and one species, detections choose one after the other, the best score first
and equal scores in the order they come. Each takes, of the true boxes still free that it overlaps enough, the one it
overlaps most, and the later one of two it overlaps alike. What found a box is right; any other detection is wrong, a
second one of the same animal too. Beyond a hundred detections of one species in one picture none counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ena24ssd.cases import Cases

COCO_OVERLAPS = np.linspace(0.5, 0.95, 10)
MOST_DETECTIONS = 100  # of one species in one picture, COCO's maxDets
PAIRS_AT_ONCE = 1_000_000  # about 100 MB


@dataclass(frozen=True)
class Matches:
    """Which of D detections are right, and what found each of T true boxes, at O overlaps.

    ``right`` does not shrink as the overlap asked for grows: a detection that lost a box to another at .5 may get it
    at .75, where that other one no longer reaches it.
    """

    overlaps: np.ndarray  # (O,) IoU asked for, above 0, up to 1
    right: np.ndarray  # (O, D) bool, the detection found an animal of its species
    found_by: np.ndarray  # (O, T) int64, position of the detection that found the box, or -1
    iou: np.ndarray  # (D,) float64, with the nearest true box of the same species in its picture; 0 where there is none
    counted: np.ndarray  # (D,) bool, among the first `MOST_DETECTIONS` of its species in its picture

    def at(self, overlap: float) -> int:
        """The row of ``right`` and ``found_by`` for an IoU; ValueError where it was not asked for."""
        rows = np.flatnonzero(np.isclose(self.overlaps, overlap, rtol=0, atol=1e-9))
        if not len(rows):
            raise ValueError(
                f"matches: overlap {overlap} was not matched; it must be one of "
                f"{', '.join(f'{value:.4g}' for value in self.overlaps)}. Give it to match() too"
            )
        return int(rows[0])


def match(cases: Cases, overlaps: Sequence[float] | np.ndarray = COCO_OVERLAPS) -> Matches:
    """Match the detections of every picture with its true boxes at each of ``overlaps`` (IoU above 0, up to 1)."""
    overlaps = np.asarray(overlaps, dtype=np.float64).reshape(-1)
    found, truth, species = cases.found, cases.truth, len(cases.class_names)
    group = found.picture * species + found.label  # one picture and species
    order = np.lexsort((-found.score, group))  # in each group the best first; lexsort keeps the order of equals
    counted = np.empty(len(group), dtype=bool)
    counted[order] = _ranks(group[order]) < MOST_DETECTIONS

    nearest = np.zeros(len(group))
    reach = np.minimum(overlaps, 1 - 1e-10)  # COCO's: boxes that should be the same may differ in the last bit
    pairs = []
    for detection, box, iou in pair_boxes(cases, group):
        np.maximum.at(nearest, detection, iou)
        close = counted[detection] & (iou > 0) & (iou >= reach.min(initial=1))
        pairs.append((detection[close], box[close], iou[close]))
    detection, box, iou = (np.concatenate(columns) for columns in zip(*pairs))

    # Detections of different groups do not compete, so all groups take their first choice at once, then their second...
    turn_of = np.zeros(len(group), dtype=np.int64)
    waiting = np.zeros(len(group), dtype=bool)
    waiting[detection] = True
    waiting = order[waiting[order]]
    turn_of[waiting] = _ranks(group[waiting])
    turn = turn_of[detection]
    in_turn = np.lexsort((box, iou, detection, turn))  # of one detection the best choice last
    detection, box, iou, turn = (column[in_turn] for column in (detection, box, iou, turn))
    right = np.zeros((len(overlaps), len(group)), dtype=bool)
    found_by = np.full((len(overlaps), len(truth.label)), -1, dtype=np.int64)
    bounds = np.searchsorted(turn, np.arange(turn.max(initial=-1) + 2))
    for start, stop in pairwise(bounds):
        who, what = detection[start:stop], box[start:stop]
        free = (iou[start:stop] >= reach[:, None]) & (found_by[:, what] < 0)  # (O, pairs)
        first = np.flatnonzero(np.diff(who, prepend=-1))
        choice = np.maximum.reduceat(np.where(free, np.arange(stop - start), -1), first, axis=1)  # (O, detections)
        row, column = np.nonzero(choice >= 0)
        chosen = choice[row, column]
        right[row, who[chosen]] = True
        found_by[row, what[chosen]] = who[chosen]
    return Matches(overlaps, right, found_by, nearest, counted)


def _ranks(group: np.ndarray) -> np.ndarray:
    """The place of each row within its group, 0 first; rows of a group stand together."""
    first = np.flatnonzero(np.diff(group, prepend=-1))
    return np.arange(len(group)) - np.repeat(first, np.diff(first, append=len(group)))


def pair_boxes(cases: Cases, group: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Every detection with every true box of its picture and species, in blocks: positions of both, and their IoU."""
    found, truth = cases.found, cases.truth
    of_truth = truth.picture * len(cases.class_names) + truth.label
    by_group = np.argsort(of_truth, kind="stable")
    first = np.searchsorted(of_truth[by_group], group, "left")
    choices = np.searchsorted(of_truth[by_group], group, "right") - first  # (D,)
    paired = np.flatnonzero(choices)
    ends = np.cumsum(choices[paired])
    blocks = np.searchsorted(ends, np.arange(PAIRS_AT_ONCE, ends[-1] if len(ends) else 0, PAIRS_AT_ONCE), "right")
    for some in np.split(paired, blocks):
        count = choices[some]
        detection = np.repeat(some, count)
        place = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        box = by_group[first[detection] + place]
        yield detection, box, _iou(found.box[detection], truth.box[box])


def _iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union row by row, (N, 4) and (N, 4) to (N,).

    In COCO's roundings: its boxes are left, top, width, height, and a match at exactly .5 hangs on the last bit.
    """
    left, other = first[:, :2], second[:, :2]
    side, other_side = first[:, 2:] - left, second[:, 2:] - other
    shared = np.minimum(left + side, other + other_side) - np.maximum(left, other)
    shared = np.clip(shared, 0, None).prod(axis=1)
    union = side.prod(axis=1) + other_side.prod(axis=1) - shared
    return np.divide(shared, union, out=np.zeros(len(shared)), where=shared > 0)
