"""What does the field's own evaluator say?

The figures that papers print, by faster-coco-eval, which computes what pycocotools does. AP is the average precision
of one species, mAP its mean over the species that the pictures show: at an IoU of .5, of .75, or (no number) the mean
of .5, .55, ... .95. AR is the share of animals found at any score, a mean over the same overlaps and species, when of
every species the best 1, 10 or 100 detections in a picture count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from ena24ssd.cases import Cases, Found, Truth

# The share of the frame that a box covers. COCO's own sizes are pixels: large is from 96 x 96, so that nearly every
# animal before a camera trap would be large, and another size on another camera. A box on a bound is in both sizes.
SIZES = {"small": (0.0, 0.01), "medium": (0.01, 0.1), "large": (0.1, 1.0)}
BOUNDLESS = 1e10  # the evaluator's own "all sizes"; also for boxes that reach over the frame
AT_50, AT_75 = 0, 5  # places of an IoU among COCO's ten


@dataclass(frozen=True)
class SizeFigures:
    """How well the animals of one size are found; 0..1, NaN where there are none."""

    boxes: int
    map: float
    map50: float
    ar: float


@dataclass(frozen=True)
class SpeciesFigures:
    """How well one species is found; 0..1, NaN where no picture shows it."""

    name: str
    boxes: int
    ap: float
    ap50: float
    ap75: float
    ar: float


@dataclass(frozen=True)
class CocoFigures:
    """COCO's figures, 0..1: NaN where no picture shows an animal, 0 where nothing was found."""

    map: float
    map50: float
    map75: float
    ar1: float
    ar10: float
    ar100: float
    sizes: dict[str, SizeFigures]  # by the names of `SIZES`
    species: tuple[SpeciesFigures, ...]  # of every class name, in that order


def evaluate_coco(cases: Cases) -> CocoFigures:
    """COCO's figures of all detections, whatever their scores."""
    ap, recall = _evaluate(cases)
    area = _share_of_frame(cases, cases.truth)
    in_size = [int(((area >= low) & (area <= high)).sum()) for low, high in _ranges().values()]
    return CocoFigures(
        map=_mean(ap[..., 0]),
        map50=_mean(ap[AT_50, :, 0]),
        map75=_mean(ap[AT_75, :, 0]),
        ar1=_mean(recall[..., 0, 0]),
        ar10=_mean(recall[..., 0, 1]),
        ar100=_mean(recall[..., 0, 2]),
        sizes={
            name: SizeFigures(boxes, _mean(ap[..., size]), _mean(ap[AT_50, :, size]), _mean(recall[..., size, 2]))
            for size, (name, boxes) in enumerate(zip(SIZES, in_size), 1)
        },
        species=tuple(
            SpeciesFigures(name, boxes, _mean(one[:, 0]), float(one[AT_50, 0]), float(one[AT_75, 0]), _mean(found))
            for name, boxes, one, found in zip(
                cases.class_names, cases.boxes_of_species.tolist(), ap.swapaxes(0, 1), recall[..., 0, 2].T
            )
        ),
    )


def _evaluate(cases: Cases) -> tuple[np.ndarray, np.ndarray]:
    """AP (10, C, 4) and highest recall (10, C, 4, 3) at COCO's overlaps, of each species and size (the first: all),
    with 1, 10 and 100 detections of a species in a picture; NaN where there is nothing to find."""
    if not len(cases.truth.label):
        nothing = np.full((10, len(cases.class_names), 1 + len(SIZES), 3), np.nan)
        return nothing[..., 0], nothing
    pictures = [{"id": number} for number in range(1, len(cases) + 1)]
    species = [{"id": number} for number in range(1, len(cases.class_names) + 1)]
    truth, found = (
        COCO({"images": pictures, "categories": species, "annotations": _annotations(cases, rows)})
        for rows in (cases.truth, cases.found)
    )
    evaluator = COCOeval_faster(truth, found, "bbox", ranges=_ranges())
    evaluator.evaluate()
    evaluator.accumulate()
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]  # (10, 101, C, 4, 3), (10, C, 4, 3)
    return tuple(np.where(values < 0, np.nan, values) for values in (precision[..., -1].mean(axis=1), recall))


def _annotations(cases: Cases, rows: Truth | Found) -> list[dict]:
    """Boxes as COCO writes them. Every id counts from 1: the evaluator takes 0 for "none"."""
    xywh = np.concatenate([rows.box[:, :2], rows.box[:, 2:] - rows.box[:, :2]], axis=1)
    score = rows.score if isinstance(rows, Found) else np.ones(len(xywh))  # nobody reads that of the truth
    columns = (rows.picture + 1, rows.label + 1, xywh, _share_of_frame(cases, rows), score)
    return [
        {"id": number, "image_id": picture, "category_id": label, "bbox": box, "area": area, "score": score}
        for number, picture, label, box, area, score in zip(
            range(1, len(xywh) + 1), *(column.tolist() for column in columns)
        )
    ]


def _share_of_frame(cases: Cases, rows: Truth | Found) -> np.ndarray:
    """The share of its picture that each box covers."""
    return (rows.box[:, 2:] - rows.box[:, :2]).prod(axis=1) / cases.sizes[rows.picture].prod(axis=1)


def _ranges() -> dict[str, list[float]]:
    """`SIZES` for the evaluator, the last one without an end."""
    return {name: [low, high if high < 1 else BOUNDLESS] for name, (low, high) in SIZES.items()}


def _mean(values: np.ndarray) -> float:
    """The mean of what is not NaN; NaN where nothing is."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")
