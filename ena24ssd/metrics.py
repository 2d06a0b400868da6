"""How good is it?

Two families, never mixed in one name:

* ``anchor`` metrics, the post's own: every anchor is a case. Background anchors outnumber the others about a hundred to
  one, so answering "background" everywhere scores an accuracy near .99; that baseline stands beside the figure.
* ``detection`` metrics: what is left after softmax, NMS and a threshold, compared with the annotators' boxes.

Everything is a sum over a whole split, divided once at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from ena24ssd.boxes import LabelledBox, iou
from ena24ssd.detections import Detection


@dataclass(frozen=True)
class AnchorSums:
    """What one step, or any number of steps added up, contributes to the anchor metrics.

    Anchors are counted over every picture of the batch; ``true_positives`` and its siblings have one entry per species.
    """

    pictures: float
    class_loss: float  # mean loss of the batch times its pictures
    box_loss: float
    anchors: float
    correct: float  # anchors whose most probable class is the true one
    background: float  # anchors that are truly background
    positives: float  # anchors that are truly some species
    correct_positives: float
    coordinates: float  # 4 an anchor
    absolute_error: float  # |predicted - true offset| over the coordinates of positive anchors
    true_positives: np.ndarray  # (C,)
    false_positives: np.ndarray
    false_negatives: np.ndarray

    @classmethod
    def zero(cls, class_count: int) -> AnchorSums:
        return cls.from_vector(np.zeros(cls.size(class_count)))

    @staticmethod
    def size(class_count: int) -> int:
        """Numbers in the vector for `from_vector`."""
        return len(SCALARS) + 3 * class_count

    @classmethod
    def from_vector(cls, vector: np.ndarray) -> AnchorSums:
        """From the scalars in the order of the fields, then C true positives, C false positives, C false negatives."""
        vector = np.asarray(vector, dtype=np.float64)
        per_species = vector[len(SCALARS) :].reshape(3, -1)
        return cls(*(float(value) for value in vector[: len(SCALARS)]), *per_species)

    def to_vector(self) -> np.ndarray:
        """The inverse of `from_vector`, float64."""
        return np.concatenate([np.ravel(getattr(self, field.name)) for field in fields(self)])

    def __add__(self, other: AnchorSums) -> AnchorSums:
        return AnchorSums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def loss(self) -> float:
        """Mean loss a picture."""
        return _ratio(self.class_loss + self.box_loss, self.pictures)

    def metrics(self) -> dict[str, float]:
        """The anchor metrics. Names of the post: Log_loss, Accuracy, MAe, Micro_F1.

        ``micro_f1`` is the F1 of the pooled counts over all species (background is no species): identical to the post's
        formula, without its rounding to two digits and over the whole split instead of its last batch.
        ``mae`` averages over all coordinates as the post does; nearly all of them are masked to zero, so
        ``mae_per_positive`` (over the coordinates that count) is the one to read.
        """
        found, invented, missed = (
            float(np.sum(counts)) for counts in (self.true_positives, self.false_positives, self.false_negatives)
        )
        return {
            "log_loss": self.loss,
            "class_loss": _ratio(self.class_loss, self.pictures),
            "box_loss": _ratio(self.box_loss, self.pictures),
            "accuracy": _ratio(self.correct, self.anchors),
            "accuracy_all_background": _ratio(self.background, self.anchors),
            "accuracy_positives": _ratio(self.correct_positives, self.positives),
            "mae": _ratio(self.absolute_error, self.coordinates),
            "mae_per_positive": _ratio(self.absolute_error, 4 * self.positives),
            "micro_f1": _ratio(2 * found, 2 * found + invented + missed),
            "positives_per_picture": _ratio(self.positives, self.pictures),
        }

    def species_f1(self) -> np.ndarray:
        """F1 of every species' anchors, (C,); NaN for one that is in none of the pictures."""
        actual = self.true_positives + self.false_negatives
        pooled = np.maximum(2 * self.true_positives + self.false_positives + self.false_negatives, 1)
        return np.where(actual > 0, 2 * self.true_positives / pooled, np.nan)


SCALARS = tuple(field.name for field in fields(AnchorSums))[:10]


def detection_metrics(
    truths: Sequence[Sequence[LabelledBox]],
    detections: Sequence[Sequence[Detection]],
    class_count: int,
    score: float,
    overlap: float = 0.5,
) -> dict[str, float]:
    """How the detections of some pictures compare with the truth.

    ``precision``, ``recall`` and ``mean_iou`` look at detections scored ``score`` or more. A detection is right when it
    is the best-scored one to overlap a box of its species by ``overlap`` or more. ``mean_iou`` is the mean, over
    those detections, of the IoU with the nearest true box of the same species (0 where the picture has none).
    ``map50`` is the mean over species with at least one box of the average precision at that overlap, over
    detections of any score (area under the interpolated precision-recall curve, as VOC 2010 and later).
    """
    overlaps, right, all_scores, labels = [], [], [], []
    boxes_of = np.zeros(class_count)
    for truth, found in zip(truths, detections):
        for label, _ in truth:
            boxes_of[label] += 1
        ordered = sorted(found, key=lambda detection: -detection.score)
        best, matched = _match(truth, ordered, overlap)
        overlaps += best
        right += matched
        all_scores += [detection.score for detection in ordered]
        labels += [detection.label for detection in ordered]
    overlaps, right = np.array(overlaps, dtype=float), np.array(right, dtype=bool)
    all_scores, labels = np.array(all_scores, dtype=float), np.array(labels, dtype=int)
    shown = all_scores >= score
    precisions = [
        average_precision(all_scores[labels == label], right[labels == label], boxes_of[label])
        for label in range(class_count)
        if boxes_of[label]
    ]
    return {
        "map50": float(np.mean(precisions)) if precisions else 0.0,
        "precision": _ratio(np.sum(right & shown), np.sum(shown)),
        "recall": _ratio(np.sum(right & shown), np.sum(boxes_of)),
        "mean_iou": _ratio(np.sum(overlaps[shown]), np.sum(shown)),
        "detections": float(np.sum(shown)),
        "boxes": float(np.sum(boxes_of)),
    }


def average_precision(scores: np.ndarray, right: np.ndarray, boxes: float) -> float:
    """Area under the precision-recall curve, precision made non-increasing from the right (VOC 2010 and later).

    Parameters: ``scores`` (D,) and ``right`` (D,) bool of one species' detections over all pictures; ``boxes`` > 0, how
    many there were to find. Returns a value in [0, 1].
    """
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(right[order])
    precision = found / np.arange(1, len(order) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    recall = np.concatenate([[0.0], found / boxes])
    return float(np.sum(np.diff(recall) * precision))


def _match(
    truth: Sequence[LabelledBox], detections: Sequence[Detection], overlap: float
) -> tuple[list[float], list[bool]]:
    """For one picture's detections, best scored first: IoU with the nearest box of the species, and if it is right."""
    if not truth or not detections:
        return [0.0] * len(detections), [False] * len(detections)
    overlaps = iou([detection.box for detection in detections], [box for _, box in truth])  # (D, T)
    same = np.equal.outer([detection.label for detection in detections], [label for label, _ in truth])
    overlaps = np.where(same, overlaps, 0.0)
    nearest = np.argmax(overlaps, axis=1)
    best = overlaps[np.arange(len(detections)), nearest].tolist()
    taken: set[int] = set()
    right = []
    for value, box in zip(best, nearest.tolist()):
        right.append(value >= overlap and box not in taken)
        if right[-1]:
            taken.add(box)
    return best, right


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else 0.0
