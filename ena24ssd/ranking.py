"""How do precision and recall go as the score falls?

Sort detections by score and take one after the other: precision is the share of those taken that are right, recall the
share of the animals that they found. A `Curve` keeps both at every score; the average precision is COCO's, the area
below the curve read at 101 recalls; a `Ranking` gives it for thousands of reweighted splits at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from ena24ssd.cases import Cases
from ena24ssd.matching import Matches

RECALLS = np.linspace(0, 1, 101)  # COCO's, to the last bit: .07 is not 7 / 100
EPSILON = np.spacing(1)  # COCO adds it to every count it divides by
CELLS_AT_ONCE = 4_000_000  # numbers in one array of a block: 32 MB


@dataclass(frozen=True)
class Curve:
    """Precision and recall at each of K distinct scores, highest first.

    At ``scores[k]`` stands what a threshold of exactly that score would show: every detection of at least that score.
    Detections with the same score enter together, for no threshold tells them apart.
    """

    scores: np.ndarray  # (K,) falling
    precision: np.ndarray  # (K,) in 0..1
    recall: np.ndarray  # (K,) in 0..1, rising; NaN where there is no box to find
    boxes: int  # to find

    @property
    def f1(self) -> np.ndarray:
        """Harmonic mean of precision and recall, (K,) in 0..1; NaN where there is no box to find."""
        total = self.precision + self.recall
        return np.divide(2 * self.precision * self.recall, total, out=np.zeros_like(total), where=total != 0)

    @property
    def best(self) -> tuple[float, float]:
        """The score with the highest F1, and that F1; the highest of such scores.

        (NaN, NaN) without a box to find or without a detection. Where none is right: the highest score, and 0.
        """
        f1 = self.f1
        if not self.boxes or not len(f1):
            return float("nan"), float("nan")
        place = int(np.argmax(f1 >= f1.max() * (1 - 1e-12)))  # equal F1 may differ in the last bit
        return float(self.scores[place]), float(f1[place])

    def f1_at(self, threshold: float) -> float:
        """The F1 of what scores ``threshold`` or more; 0 where nothing does, NaN without a box to find."""
        place = int(np.searchsorted(-self.scores, -threshold, side="right")) - 1
        if not self.boxes:
            return float("nan")
        return float(self.f1[place]) if place >= 0 else 0.0


def trace(scores: np.ndarray, right: np.ndarray, boxes: int) -> Curve:
    """The curve of detections with ``scores`` (N,) in any order, ``right`` (N,) bool, that had ``boxes`` to find."""
    scores = np.asarray(scores, dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # of each run of equal scores
    hits = np.cumsum(np.asarray(right, dtype=np.int64)[order])[last]
    recall = hits / boxes if boxes else np.full(len(last), np.nan)
    return Curve(scores[last], hits / (last + 1), recall, int(boxes))


def species_curves(cases: Cases, matches: Matches, overlap: float = 0.5) -> tuple[Curve, ...]:
    """One curve a species, in the order of the class names; detections are right that match at ``overlap``."""
    right = matches.right[matches.at(overlap)]
    chosen = [matches.counted & (cases.found.label == label) for label in range(len(cases.class_names))]
    boxes = cases.boxes_of_species.tolist()
    return tuple(trace(cases.found.score[some], right[some], number) for some, number in zip(chosen, boxes))


def pooled_curve(cases: Cases, matches: Matches, overlap: float = 0.5) -> Curve:
    """The curve of all detections together, whatever their species: frequent species weigh more."""
    right = matches.right[matches.at(overlap)]
    return trace(cases.found.score[matches.counted], right[matches.counted], len(cases.truth.label))


def average_precision(scores: np.ndarray, right: np.ndarray, boxes: int) -> float:
    """COCO's average precision, in 0..1, of detections with ``scores`` (N,) and ``right`` (N,) bool.

    The mean over `RECALLS` of the best precision at that recall or more, 0 where it is never reached. Here detections
    with the same score enter one by one in the order given, as COCO's do. NaN where there is no box to find.
    """
    if not boxes:
        return float("nan")
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    hits = np.cumsum(np.asarray(right, dtype=np.float64)[order])
    precision = hits / (np.arange(1, len(hits) + 1) + EPSILON)
    reached = np.searchsorted(hits / boxes, RECALLS, side="left")
    return float(np.append(np.maximum.accumulate(precision[::-1])[::-1], 0)[reached].mean())


class Ranking:
    """Average precision of every species, for any number of weights on the pictures.

    A picture of weight 2 counts as if it were there twice, one of weight 0 as if it were not, so that a bootstrap needs
    to match and to sort only once. The result is `average_precision` of the repeated pictures, except that where equal
    scores of one species stand in one picture, its copies of a detection enter together.
    """

    def __init__(self, cases: Cases, matches: Matches):
        found, truth, pictures = cases.found, cases.truth, len(cases)
        self._overlaps = len(matches.overlaps)
        self._boxes = csr_matrix(
            (np.ones(len(truth.label)), (truth.label, truth.picture)), shape=(len(cases.class_names), pictures)
        )
        # Precision matters only at right detections, few of many: between two of them it falls. So of a species we hold
        # these, and for each of them how many detections of every picture entered since the one before: times the
        # weights and summed up, that is how many were taken.
        self._entered: list[csr_matrix] = []  # for each species (N, P)
        self._picture: list[np.ndarray] = []  # (N,) of the right detections
        self._right: list[np.ndarray] = []  # (O, N) bool
        order = np.argsort(-found.score, kind="stable")
        order = order[matches.counted[order]]
        for label in range(len(cases.class_names)):
            mine = order[found.label[order] == label]
            right = matches.right[:, mine]
            hits = np.flatnonzero(right.any(axis=0))
            mine, right = mine[: hits[-1] + 1 if len(hits) else 0], right[:, hits]
            step = np.searchsorted(hits, np.arange(len(mine)))  # the first right detection at or after each
            entered = csr_matrix((np.ones(len(mine)), (step, found.picture[mine])), shape=(len(hits), pictures))
            self._entered.append(entered)
            self._picture.append(found.picture[mine[hits]])
            self._right.append(right)

    def average_precisions(self, weights: np.ndarray) -> np.ndarray:
        """Average precisions (B, C, O) under ``weights`` (B, P): how often each of P pictures is there, 0 or more.

        Whole numbers give exact results; fractions may miss the last recall by a rounding error. NaN for a species
        without a box to find.
        """
        weights = np.asarray(weights)
        widest = max([weights.shape[1], 1, *(len(picture) for picture in self._picture)])
        block = max(1, min(256, CELLS_AT_ONCE // widest))
        result = np.empty((len(weights), len(self._entered), self._overlaps))
        for start in range(0, len(weights), block):
            some = np.ascontiguousarray(weights[start : start + block].T, dtype=np.float64)  # (P, b)
            result[start : start + block] = np.moveaxis(self._measure(some), -1, 0)
        return result

    def _measure(self, weights: np.ndarray) -> np.ndarray:
        """Average precisions (C, O, b) under weights (P, b): whole rows at a time, which the processor likes best."""
        boxes = self._boxes @ weights  # (C, b)
        result = np.zeros((len(boxes), self._overlaps, weights.shape[1]))
        for species, (entered, picture, right) in enumerate(zip(self._entered, self._picture, self._right)):
            to_find = np.maximum(boxes[species], EPSILON)
            taken = np.cumsum(entered @ weights, axis=0) + EPSILON  # (N, b)
            for row, now in enumerate(right):
                hits = np.cumsum(weights[picture[now]], axis=0)  # (n, b)
                precision = hits / taken[now]
                precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
                read = np.diff(_recalls_reached(hits / to_find), axis=0, prepend=0)  # how many recalls are read here
                result[species, row] = np.einsum("nb,nb->b", precision, read) / len(RECALLS)
        result[np.broadcast_to((boxes == 0)[:, None], result.shape)] = np.nan
        return result


def _recalls_reached(recall: np.ndarray) -> np.ndarray:
    """How many of `RECALLS` are at most ``recall``: a guess by multiplication, mended where rounding misled it."""
    guess = np.minimum((recall * 100).astype(np.int64), 100)
    return guess + (RECALLS[guess] <= recall) + (np.append(RECALLS, np.inf)[guess + 1] <= recall)
