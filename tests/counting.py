"""What does an evaluation come to, counted naively?  Ten lines a figure, to hold the fast code against."""

from __future__ import annotations

import math

import numpy as np

from ena24ssd.boxes import iou
from ena24ssd.calibration import LOWEST, Calibration
from ena24ssd.cases import Cases
from ena24ssd.cocoeval import evaluate_coco
from ena24ssd.matching import COCO_OVERLAPS
from ena24ssd.ranking import RECALLS

NAN = math.nan


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else NAN


def mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return ratio(sum(known), len(known))


def claims(cases: Cases, overlap: float) -> list[tuple[int, int, float, bool, int, float]]:
    """Every detection that COCO counts: picture, label, score, whether it is right, its rank, its IoU."""
    rows = []
    for place in range(len(cases)):
        for label in range(len(cases.class_names)):
            mine = (cases.truth.picture == place) & (cases.truth.label == label)
            boxes, free = cases.truth.box[mine], set(range(mine.sum()))
            seen = [one for one in cases.detections(place) if one.label == label]
            for rank, one in enumerate(seen[:100]):
                near = iou(one.box, boxes)[0]
                close = [box for box in free if near[box] >= min(overlap, 1 - 1e-10)]
                taken = max(close, key=lambda box: (near[box], box), default=None)
                free.discard(taken)
                rows.append((place, label, one.score, taken is not None, rank, near.max(initial=0)))
    return sorted(rows, key=lambda row: (-row[2], row[0]))


def naive_ap(rows: list[tuple], boxes: int) -> float:
    if not boxes:
        return NAN
    hits = np.cumsum([right for _, _, _, right, *_ in rows])
    points = [(hit / boxes, hit / taken) for taken, hit in enumerate(hits, 1)]
    return float(np.mean([max((p for r, p in points if r >= recall), default=0) for recall in RECALLS]))


def naive_coco(cases: Cases) -> dict[str, float]:
    boxes = cases.boxes_of_species
    ap, recalls = [], {1: [], 10: [], 100: []}  # by overlap, then species
    for overlap in COCO_OVERLAPS:
        rows = claims(cases, overlap)
        of = [[row for row in rows if row[1] == label] for label in range(len(boxes))]
        ap.append([naive_ap(*both) for both in zip(of, boxes)])
        for most, some in recalls.items():
            right = [sum(row[3] for row in mine if row[4] < most) for mine in of]
            some.append([ratio(*both) for both in zip(right, boxes)])
    ap50, ap75, all_ap = ap[0], ap[5], [mean(one) for one in zip(*ap)]
    found = {f"detection/ar{most}": mean([mean(one) for one in zip(*some)]) for most, some in recalls.items()}
    return {
        "detection/map": mean(all_ap),
        "detection/map50": mean(ap50),
        "detection/map75": mean(ap75),
        **found,
        **{f"ap50/{name}": one for name, one, count in zip(cases.class_names, ap50, boxes) if count},
    }


def naive_ece(rows: list[tuple[float, bool]]) -> float:
    bins = [[row for row in rows if max(1, math.ceil(row[0] * 10)) == number] for number in range(1, 11)]
    gaps = [abs(sum(right for _, right in some) - sum(said for said, _ in some)) for some in bins]
    return ratio(sum(gaps), len(rows))


def naive_review(cases: Cases, recall: float, threshold: float | None) -> dict[str, float]:
    best = [max((one.score for one in cases.detections(place)), default=0) for place in range(len(cases))]
    animals = [value for value, blank in zip(best, cases.blank) if not blank]
    if threshold is None:
        enough = [value for value in best if animals and sum(b >= value for b in animals) >= recall * len(animals)]
        threshold = max(enough, default=NAN)
    known = not math.isnan(threshold)
    return {
        "review/threshold": threshold,
        "review/recall": ratio(sum(value >= threshold for value in animals), len(animals)) if known else NAN,
        "review/skipped": ratio(sum(value < threshold for value in best), len(best)) if known else NAN,
    }


def naive_sums(cases: Cases, threshold: float) -> dict[str, float]:
    shown = [row for row in claims(cases, 0.5) if row[2] >= threshold]
    boxes, right = len(cases.truth.label), sum(row[3] for row in shown)
    there, seen = [set() for _ in cases.ids], [set() for _ in cases.ids]
    for place, label in zip(cases.truth.picture.tolist(), cases.truth.label.tolist()):
        there[place].add(label)
    for place, label, *_ in shown:
        seen[place].add(label)
    blanks, animals = [place for place, some in enumerate(there) if not some], [s for t, s in zip(there, seen) if t]
    both = list(zip(there, seen))
    hits, extra, lost = ([len(some(a, b)) for a, b in both] for some in (set.__and__, lambda a, b: b - a, set.__sub__))
    f1 = [
        ratio(2 * sum(label in a & b for a, b in both), sum((label in a) + (label in b) for a, b in both))
        for label in set().union(*there)
    ]
    on_blanks = sum(row[0] in blanks for row in shown)
    return {
        "detection/precision": ratio(right, len(shown)),
        "detection/recall": ratio(right, boxes),
        "detection/f1": ratio(2 * right, len(shown) + boxes),
        "detection/mean_iou": ratio(sum(row[5] for row in shown), len(shown)),
        "detection/detections": len(shown),
        "detection/boxes": boxes,
        "presence/precision": ratio(sum(hits), sum(hits) + sum(extra)),
        "presence/recall": ratio(sum(hits), sum(hits) + sum(lost)),
        "presence/f1": ratio(2 * sum(hits), 2 * sum(hits) + sum(extra) + sum(lost)),
        "presence/macro_f1": mean(f1),
        "presence/exact": ratio(sum(a == b for a, b in both), len(cases)),
        "blank/sensitivity": ratio(sum(bool(some) for some in animals), len(animals)),
        "blank/specificity": ratio(sum(not seen[place] for place in blanks), len(blanks)),
        "blank/false_boxes_per_100": ratio(100 * on_blanks, len(blanks)),
        "blank/skipped": ratio(sum(not some for some in seen), len(cases)),
    }


def naive_choices(cases: Cases, recall: float, calibration: Calibration | None) -> dict[str, float]:
    """The figures that a calibration decides."""
    if calibration is None:
        return naive_review(cases, recall, None)
    after = [(float(calibration.apply(np.array(row[2]))), row[3]) for row in claims(cases, 0.5) if row[2] >= LOWEST]
    return {
        **naive_review(cases, recall, calibration.review_threshold),
        "calibration/temperature": calibration.temperature,
        "calibration/shift": calibration.shift,
        "calibration/ece_calibrated": naive_ece(after),
    }


def naive_figures(cases: Cases, threshold: float, recall: float) -> dict[str, float]:
    """Every figure of a `Scores` without a calibration; the sizes, whose rules are COCO's own, are the evaluator's."""
    return {
        **naive_sums(cases, threshold),
        **naive_coco(cases),
        **naive_choices(cases, recall, None),
        **{f"detection/map_{name}": size.map for name, size in evaluate_coco(cases).sizes.items()},
        "calibration/ece": naive_ece([(row[2], row[3]) for row in claims(cases, 0.5) if row[2] >= LOWEST]),
    }
