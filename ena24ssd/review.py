"""How many pictures need nobody to look at them?

Most pictures of a camera trap show no animal. A person who looks only at those whose best detection scores a
threshold or more skips the rest, and with the rest any animals on them: `Review` is that bargain at every threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ena24ssd.cases import Cases


@dataclass(frozen=True)
class Review:
    """What skipping the pictures below a threshold saves and loses, at each score that is some picture's best.

    K thresholds, rising: the first skips nothing. Pictures with the same score are skipped together, and a picture on
    which nothing was found has score 0.
    """

    threshold: np.ndarray  # (K,) in 0..1; pictures scoring less are skipped
    recall: np.ndarray  # (K,) share of the pictures with animals that is still looked at; NaN if there are none
    skipped: np.ndarray  # (K,) share of all pictures that nobody looks at

    def at(self, recall: float) -> tuple[float, float, float]:
        """The highest threshold that still shows the reviewer at least ``recall`` of the pictures with animals.

        Returns that threshold, the recall it has (``recall`` or more) and the share of pictures skipped; three NaN
        where no picture shows an animal. Raises ValueError unless 0 < ``recall`` <= 1.
        """
        if not 0 < recall <= 1:
            raise ValueError(
                f"review: the recall asked for is {recall:g}; it must be above 0 and at most 1. "
                "Ask for 0.95 to keep 95 % of the pictures with animals."
            )
        enough = np.flatnonzero(self.recall >= recall)  # recall falls: these come first; NaN is never enough
        if not enough.size:
            return np.nan, np.nan, np.nan
        last = enough[-1]
        return float(self.threshold[last]), float(self.recall[last]), float(self.skipped[last])


def review_curve(cases: Cases) -> Review:
    """The bargain at every threshold at which it changes; without pictures, at none."""
    threshold, place = np.unique(cases.best_score, return_inverse=True)
    pictures, animals = (np.bincount(place[chosen], minlength=len(threshold)) for chosen in (..., ~cases.blank))
    skipped, lost = (np.cumsum(counts) - counts for counts in (pictures, animals))  # those below, not at, a threshold
    return Review(threshold, _share(animals.sum() - lost, animals.sum()), _share(skipped, len(cases)))


def apply(cases: Cases, threshold: float, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """What a ``threshold``, found on other pictures, does on these.

    Parameters: ``weights`` (..., P), how often each picture is there; left out: once. Returns the recall and the share
    of pictures skipped, (...,) each: NaN where there is no picture with animals, and no picture at all; both NaN for a
    ``threshold`` that is.
    """
    weights = np.ones(len(cases)) if weights is None else weights
    kept, animal = cases.best_score >= threshold, ~cases.blank
    looked_at, there, lost, every = (
        weights @ chosen.astype(np.float64)
        for chosen in (kept & animal, animal, ~kept, np.ones(len(cases), dtype=bool))
    )
    unknown = np.full(np.shape(there), np.nan)
    told = ~np.isnan(threshold)
    recall = np.divide(looked_at, there, out=unknown.copy(), where=(there > 0) & told)
    return recall, np.divide(lost, every, out=unknown.copy(), where=(every > 0) & told)


def _share(part: np.ndarray, whole: int) -> np.ndarray:
    return np.divide(part, whole) if whole else np.full(np.shape(part), np.nan)
