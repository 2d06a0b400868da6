"""At one threshold, what does each picture add up to?

One row of sums a picture. Every figure here is a ratio of column totals, so the same function gives the figure of all
pictures, of those taken at night, and of a thousand resampled sets at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ena24ssd.cases import Cases
from ena24ssd.matching import Matches

RIGHT_OVERLAP = 0.5
SUMS = (
    "pictures",  # 1
    "shown",  # detections that score the threshold or more
    "right",  # of these, those that found an animal of their species at IoU .5
    "iou",  # of these, the IoU with the nearest box of their species, added up
    "boxes",  # true ones
    "animals",  # 1 if there is a true box
    "animals_flagged",  # 1 if something is shown besides
    "blanks",  # 1 if there is no true box
    "blanks_flagged",  # 1 if something is shown nevertheless
    "boxes_on_blanks",  # how much
    "exact",  # 1 if the species shown are those there, no more and no fewer; none and none included
)
PRESENCE = ("found", "invented", "missed")  # 1 if the species is there and shown; only shown; only there


@dataclass(frozen=True)
class Tally:
    """The sums of P pictures with C species: the columns of `SUMS`, then C of each of `PRESENCE`."""

    class_names: tuple[str, ...]
    sums: np.ndarray  # (P, F) float64
    columns: tuple[str, ...]  # F names: those of `SUMS`, then "found/fox", ..., "invented/fox", ..., "missed/fox", ...


def tally(cases: Cases, matches: Matches, threshold: float) -> Tally:
    """Add up each picture's detections of score ``threshold`` or more; ``matches`` must hold those at IoU .5.

    Detections beyond COCO's hundred of a species in a picture (`Matches.counted`) are left out.
    """
    pictures, species = len(cases), len(cases.class_names)
    shown = matches.counted & (cases.found.score >= threshold)
    picture = cases.found.picture[shown]
    right, iou = matches.right[matches.at(RIGHT_OVERLAP)][shown], matches.iou[shown]
    boxes, shown_boxes, right_boxes, ious = (
        np.bincount(rows, weights, minlength=pictures)
        for rows, weights in ((cases.truth.picture, None), (picture, None), (picture, right), (picture, iou))
    )
    there, seen = np.zeros((2, pictures, species), dtype=bool)
    there[cases.truth.picture, cases.truth.label] = True
    seen[picture, cases.found.label[shown]] = True
    animal, flagged = boxes > 0, shown_boxes > 0
    sums = [
        np.ones(pictures),
        shown_boxes,
        right_boxes,
        ious,
        boxes,
        animal,
        animal & flagged,
        ~animal,
        ~animal & flagged,
        np.where(animal, 0, shown_boxes),
        np.all(there == seen, axis=1),
    ]
    presence = [there & seen, ~there & seen, there & ~seen]  # (P, C) each
    names = [f"{kind}/{name}" for kind in PRESENCE for name in cases.class_names]
    return Tally(cases.class_names, np.column_stack([*sums, *presence]).astype(np.float64), (*SUMS, *names))


def figures(sums: np.ndarray, class_names: Sequence[str]) -> dict[str, np.ndarray]:
    """The figures of column totals.

    Parameters: ``sums`` (..., F), totals of the columns of a `Tally` of these species, over any pictures, each counted
    as often as it was drawn. Returns (...,) for every name. All are shares in 0..1 but ``detection/detections`` and
    ``detection/boxes``, which count, and ``blank/false_boxes_per_100``, a rate.

    ``detection`` looks at boxes, at IoU .5. ``presence`` asks of each picture and species whether the species is there
    and whether it is shown: ``precision``, ``recall`` and ``f1`` of all these answers pooled (micro), ``macro_f1``, the
    mean of the F1 of every species that is there at all, and ``exact``, the share of pictures with exactly the right
    species. ``blank`` looks at whether anything is shown: on pictures with animals (``sensitivity``), not on blank
    ones (``specificity``), on no picture at all (``skipped``, what a person need not look at).

    Undefined figures are NaN: precision and mean IoU with nothing shown, recall with nothing there, F1 with neither,
    sensitivity without animals, specificity and false boxes without blank pictures.
    """
    total = dict(zip(SUMS, np.moveaxis(np.asarray(sums)[..., : len(SUMS)], -1, 0)))
    found, invented, missed = _presence(sums, class_names)  # (..., C)
    flagged = total["animals_flagged"] + total["blanks_flagged"]
    hits, extra, lost = found.sum(axis=-1), invented.sum(axis=-1), missed.sum(axis=-1)
    occurs = found + missed > 0
    species_f1 = np.where(occurs, _f1(found, invented, missed), 0.0)
    return {
        "detection/precision": _ratio(total["right"], total["shown"]),
        "detection/recall": _ratio(total["right"], total["boxes"]),
        "detection/f1": _ratio(2 * total["right"], total["shown"] + total["boxes"]),
        "detection/mean_iou": _ratio(total["iou"], total["shown"]),
        "detection/detections": total["shown"],
        "detection/boxes": total["boxes"],
        "presence/precision": _ratio(hits, hits + extra),
        "presence/recall": _ratio(hits, hits + lost),
        "presence/f1": _f1(hits, extra, lost),
        "presence/macro_f1": _ratio(species_f1.sum(axis=-1), occurs.sum(axis=-1)),
        "presence/exact": _ratio(total["exact"], total["pictures"]),
        "blank/sensitivity": _ratio(total["animals_flagged"], total["animals"]),
        "blank/specificity": _ratio(total["blanks"] - total["blanks_flagged"], total["blanks"]),
        "blank/false_boxes_per_100": _ratio(100 * total["boxes_on_blanks"], total["blanks"]),
        "blank/skipped": _ratio(total["pictures"] - flagged, total["pictures"]),
    }


def species_figures(sums: np.ndarray, class_names: Sequence[str]) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of each species' presence on pictures, and ``pictures``, how many show it.

    Parameters: ``sums`` (..., F) as in `figures`. Returns (..., C) for every name; NaN as there.
    """
    found, invented, missed = _presence(sums, class_names)
    return {
        "precision": _ratio(found, found + invented),
        "recall": _ratio(found, found + missed),
        "f1": _f1(found, invented, missed),
        "pictures": found + missed,
    }


def _presence(sums: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Pictures on which each species was found, invented and missed, (3, ..., C)."""
    counts = np.asarray(sums)[..., len(SUMS) :]
    return np.moveaxis(counts.reshape(*counts.shape[:-1], len(PRESENCE), len(class_names)), -2, 0)


def _f1(hits: np.ndarray, extra: np.ndarray, lost: np.ndarray) -> np.ndarray:
    return _ratio(2 * hits, 2 * hits + extra + lost)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
