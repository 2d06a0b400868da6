"""Do two networks find the same on the same pictures?

Two programs that compute the same network round differently. That moves scores and boxes by next to nothing, but a box
that hangs by a hair may fall to the other side: of a threshold, of the last place, of an overlap. `compare` tells such
near ties from real differences, and names the first of those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from ena24ssd.boxes import Box, iou
from ena24ssd.config import EvaluationConfig

SCORE, BOX = 1e-4, 0.5  # how far a float export may be off: of a score, and of a box's edge in pixels of the picture
HAIR = 1e-3  # how near to the threshold of NMS an overlap must be, for rounding to bring it to the other side


class Agreement(NamedTuple):
    """How far two networks say the same."""

    detections: int  # of the first, which are not suppressed
    score_difference: float  # the largest, of pairs
    box_difference: float  # the same of an edge, in pixels of the picture
    near_ties: int
    faults: dict[int, str]  # what differs, by picture; -1 for what shows over all of them

    def add(self, other: Agreement) -> Agreement:
        """Both comparisons as one."""
        return Agreement(
            self.detections + other.detections,
            max(self.score_difference, other.score_difference),
            max(self.box_difference, other.box_difference),
            self.near_ties + other.near_ties,
            other.faults | self.faults,
        )


def compare(
    native: np.ndarray,
    exported: np.ndarray,
    views: Sequence[Box],
    evaluation: EvaluationConfig,
    class_names: Sequence[str],
) -> Agreement:
    """Whether two networks' rows for the same pictures, (P, K, 6) each as of `Network.detect`, are the same but for
    rounding; ``views`` says what each of the P squares shows, in pixels of its picture.

    Every candidate of one, suppressed or not, must be one of the other, with a score within `SCORE` and edges within
    `BOX` pixels. Rounding may do more than that only where something hangs by a hair: a score at the floor or at the
    last place, an overlap at the threshold of NMS, and what follows from it. Such near ties are counted; each is shown
    to be one, and excuses nothing else. One in a thousand detections may be called another species that has the same
    score, unless that is a habit.
    """
    if native.shape != exported.shape:
        return Agreement(0, 0.0, 0.0, 0, {-1: f"its rows have the shape {exported.shape} instead of {native.shape}"})
    detections, ties, score, box, faults = 0, 0, 0.0, 0.0, {}
    agreed, doubted, doubts = Counter(), Counter(), {}
    for picture, (mine, other, view) in enumerate(zip(native, exported, views)):
        both = _in_pixels(mine, view), _in_pixels(other, view)
        one = _compare_picture(*both, len(mine), evaluation, class_names)
        detections += int((mine[:, 0] >= 0).sum())
        ties += one.near_ties
        score, box = max(score, one.score), max(box, one.box)
        agreed.update(one.agreed)
        doubted.update(one.doubted)
        if one.fault:
            faults[picture] = one.fault
        if one.doubt:
            doubts[picture] = one.doubt
    is_habit = any(doubted[label] > agreed[label] for label in doubted)
    if is_habit or sum(doubted.values()) > detections // 1000:
        faults = doubts | faults
    return Agreement(detections, score, box, ties + sum(doubted.values()), dict(sorted(faults.items())))


def _in_pixels(rows: np.ndarray, view: Box) -> np.ndarray:
    """The rows (K, 6) of a picture, best first, without padding, with boxes in its pixels."""
    rows = rows[~(rows[:, 1] < 0)].astype(np.float64)  # what is no number stays, to be found
    rows[:, 2:] = rows[:, 2:] * np.tile((view.width, view.height), 2) + np.tile((view.left, view.top), 2)
    return rows


class _Compared(NamedTuple):
    """What `_compare_picture` finds; labels are the first network's."""

    fault: str = ""
    score: float = 0.0
    box: float = 0.0
    near_ties: int = 0
    agreed: tuple[int, ...] = ()  # labels of detections that both have
    doubted: tuple[int, ...] = ()  # labels of those that only a tie of two species could excuse
    doubt: str = ""


def _compare_picture(
    mine: np.ndarray, other: np.ndarray, places: int, evaluation: EvaluationConfig, names: Sequence[str]
) -> _Compared:
    """The candidates of one picture, (n, 6) and (m, 6), suppressed ones among them, where there is room for so many."""
    if not np.isfinite(other).all():
        return _Compared("it gives what is no number")
    if (other[:, 0] >= len(names)).any():
        return _Compared(f"it has the label {other[:, 0].max():.0f}, and {len(names)} species are named")
    if (np.diff(other[:, 1]) > 0).any():
        return _Compared("its detections are not in the order of their scores")
    first, second, score, box = _pair(mine, other)
    fault = _unpaired(mine, other, first, second, places, evaluation.floor, names) or _overlapping(other, evaluation)
    agreed, doubted, ties, doubt = [], [], len(mine) + len(other) - 2 * len(first), ""
    for i, j in zip(first.tolist(), second.tolist()):
        label, named = int(mine[i, 0]), int(other[j, 0])
        if label == named:
            agreed += [label] * (label >= 0)
        # Where only one of a pair is suppressed, a better box must be there that may have done it.
        elif (label < 0 and _is_beaten(mine, i, named, evaluation)) or (
            named < 0 and _is_beaten(other, j, label, evaluation)
        ):
            ties += 1
        else:
            doubted.append(named if label < 0 else label)
            doubt = doubt or f"the network has {_describe(mine[i], names)}, the export {_describe(other[j], names)}"
    return _Compared(fault, score.max(initial=0), box.max(initial=0), ties, tuple(agreed), tuple(doubted), doubt)


def _pair(mine: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Positions of the rows that are the same in both, and how far the score and the box of each pair differ."""
    score = np.abs(mine[:, None, 1] - other[None, :, 1])
    box = np.abs(mine[:, None, 2:] - other[None, :, 2:]).max(axis=2, initial=0)
    far = np.maximum(score / SCORE, box / BOX)
    # Of rows that might be one another's, those of one species; a pair that is none costs more than all that are.
    cost = np.where(far <= 1, far + (mine[:, None, 0] != other[None, :, 0]), 1e6)
    first, second = linear_sum_assignment(cost)
    same = far[first, second] <= 1
    first, second = first[same], second[same]
    return first, second, score[first, second], box[first, second]


def _unpaired(
    mine: np.ndarray,
    other: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    places: int,
    floor: float,
    names: Sequence[str],
) -> str:
    """What only one of both has, although its score lies neither at the floor nor at the last place; empty for none."""
    for rows, others, paired, words in (
        (mine, other, first, "the network has {}, the export {}"),
        (other, mine, second, "the export has {}, the network {}"),
    ):
        least = max(floor, others[-1, 1] if len(others) == places else 0.0)
        alone = np.setdiff1d(np.flatnonzero(rows[:, 1] > least + SCORE), paired)
        if len(alone):
            row, nearest = rows[alone[0]], "nothing"
            if len(others):
                apart = np.abs(others[:, 1] - row[1]) / SCORE + np.abs(others[:, 2:] - row[2:]).max(axis=1) / BOX
                nearest = f"at best {_describe(others[apart.argmin()], names)}"
            return words.format(_describe(row, names), nearest)
    return ""


def _overlapping(rows: np.ndarray, evaluation: EvaluationConfig) -> str:
    """Two detections one of which should have suppressed the other, in words; empty for none."""
    kept = rows[rows[:, 0] >= 0]
    overlaps = np.triu(iou(kept[:, 2:], kept[:, 2:]), 1)
    if not evaluation.class_agnostic_nms:
        overlaps *= kept[:, None, 0] == kept[None, :, 0]
    most = overlaps.max(initial=0)
    if most < evaluation.nms + HAIR:
        return ""
    return f"the export keeps two boxes that overlap by {most:.3f}, of which NMS ({evaluation.nms:g}) should keep one"


def _is_beaten(rows: np.ndarray, place: int, label: int, evaluation: EvaluationConfig) -> bool:
    """Whether a better detection overlaps that row enough to suppress it, were it of the species ``label``."""
    better = rows[:place]
    better = better[better[:, 0] >= 0 if evaluation.class_agnostic_nms else better[:, 0] == label]
    return bool((iou(better[:, 2:], rows[place : place + 1, 2:]) >= evaluation.nms - HAIR).any())


def _describe(row: np.ndarray, names: Sequence[str]) -> str:
    what = "a suppressed box" if row[0] < 0 else names[int(row[0])]
    corners = ", ".join(f"{value:.1f}" for value in row[2:])
    return f"{what} of score {row[1]:.5f} at ({corners}) px"
