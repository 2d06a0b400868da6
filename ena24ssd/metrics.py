"""How good are the anchors?

The post's own figures: every anchor is a case. Background anchors outnumber the others about a hundred to one, so
answering "background" everywhere scores an accuracy near .99; that baseline stands beside the figure. Whether animals
are found is another question: `ena24ssd.scores`. Everything is a sum over a whole split, divided once at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np


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


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else 0.0
