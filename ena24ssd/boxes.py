"""What is a box, and how do two compare?

Four spaces a box can live in, each with its own name and never mixed:

* ``xywh``: left, top, width, height in pixels, as annotation files write it;
* `Box`: left, top, right, bottom in pixels of the original picture, as records hold it;
* ``corners``: the same four relative to the square the network sees (unit corners), as tensors hold it;
* ``offsets``: relative to an anchor, as the network predicts it (only the engines know this one).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Box(NamedTuple):
    """An axis-aligned rectangle in pixels of the original picture, with ``left < right`` and ``top < bottom``.

    The origin is the picture's top left corner; x grows to the right, y downwards. Edges are continuous coordinates:
    a box over the whole of a 1920x1080 picture is ``Box(0, 0, 1920, 1080)``.
    """

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def from_xywh(cls, x: float, y: float, width: float, height: float) -> Box:
        """The box of a COCO ``bbox`` (left, top, width, height; pixels)."""
        return cls(x, y, x + width, y + height)

    @property
    def xywh(self) -> tuple[float, float, float, float]:
        """Left, top, width, height in pixels: the order annotation files use."""
        return self.left, self.top, self.width, self.height

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def area(self) -> float:
        return self.width * self.height

    def clip(self, width: float, height: float) -> Box:
        """The part inside a picture of ``width`` x ``height`` pixels; its area is 0 where the two do not overlap."""
        return Box(
            min(max(self.left, 0.0), width),
            min(max(self.top, 0.0), height),
            min(max(self.right, 0.0), width),
            min(max(self.bottom, 0.0), height),
        )

    def scale(self, x: float, y: float) -> Box:
        """The same box on a picture whose width is ``x`` times, and whose height is ``y`` times as large."""
        return Box(self.left * x, self.top * y, self.right * x, self.bottom * y)

    def relative_to(self, view: Box) -> Box:
        """The same box in units of ``view``: 0 is the view's left or top edge, 1 its right or bottom edge."""
        return Box(
            (self.left - view.left) / view.width,
            (self.top - view.top) / view.height,
            (self.right - view.left) / view.width,
            (self.bottom - view.top) / view.height,
        )


class LabelledBox(NamedTuple):
    """What the annotators drew: a species ``label`` (0..C-1, an index into the class names) and its `Box`."""

    label: int
    box: Box


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair.

    Parameters: ``first`` (A, 4) and ``second`` (B, 4), corners in any one unit.
    Returns (A, B) in [0, 1]; a pair whose union has no area scores 0.
    """
    first = np.asarray(first, dtype=np.float64).reshape(-1, 1, 4)
    second = np.asarray(second, dtype=np.float64).reshape(1, -1, 4)
    overlap = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    intersection = np.prod(np.clip(overlap, 0.0, None), axis=-1)  # (A, B)
    area = [np.prod(np.clip(box[..., 2:] - box[..., :2], 0.0, None), axis=-1) for box in (first, second)]
    union = area[0] + area[1] - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def truth_rows(boxes: Sequence[LabelledBox], view: Box, rows: int) -> np.ndarray:
    """The boxes of one picture as the fixed-size block a batch needs.

    Parameters: ``view``, what the network's square shows, in pixels of the picture (`ena24ssd.pictures.view_of`).
    Returns (rows, 5) float32: ``[label, left, top, right, bottom]`` in unit corners, real boxes first. The rest is -1,
    and only at the end: MXNet's multibox_target stops reading at the first row of -1.

    Raises ValueError when there are more boxes than rows.
    """
    if len(boxes) > rows:
        raise ValueError(f"{len(boxes)} boxes do not fit into {rows} truth rows; raise data.max_boxes to {len(boxes)}")
    truth = np.full((rows, 5), -1.0, dtype=np.float32)
    for row, (label, box) in zip(truth, boxes):
        unit = box.relative_to(view)
        row[:] = label, unit.left, unit.top, unit.right, unit.bottom
    return truth
