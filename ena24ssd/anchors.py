"""Which boxes can the network propose, and which animals can they match?

The network looks from the cells of one square grid, and every cell proposes the same few shapes: MXNet's
`multibox_prior` on the feature map of `CustomConv`. A shape is a width and a height relative to the square,
``size * sqrt(ratio)`` and ``size / sqrt(ratio)``; every size comes at the first ratio, every further ratio at the first
size alone. An animal that no anchor overlaps well enough gets its best anchor all the same, and teaches little by it.

Everything here takes boxes as unit corners of the square that the network sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

STRIDE = 16  # pixels of the square between two cells: four convolutions of stride 2
BLOCK = 65_536  # boxes compared at a time; bounds the memory

# What `suggest` chooses from: steps of about 7 and 10 %, finer than annotators draw, in figures that read well.
SIZES = np.unique([float(f"{size:.2g}") for size in np.geomspace(0.02, 1.2, 61)])
RATIOS = np.unique([float(f"{ratio:.2g}") for ratio in np.geomspace(1 / 5, 5, 33)])
SEARCHED = 4_000  # boxes that `suggest` searches with


class Anchors(NamedTuple):
    """The anchors of a grid of ``cells`` x ``cells``; ``sizes`` and ``ratios`` as in `ena24ssd.config.ModelConfig`."""

    cells: int
    sizes: tuple[float, ...]
    ratios: tuple[float, ...]

    @property
    def per_cell(self) -> int:
        return len(self.sizes) + len(self.ratios) - 1

    @property
    def shapes(self) -> np.ndarray:
        """(per_cell, 2) float64: width and height of each anchor of a cell, in sides of the square."""
        size, ratio = np.array(_pairs(self.sizes, self.ratios), dtype=np.float64).T
        return np.stack([size * np.sqrt(ratio), size / np.sqrt(ratio)], axis=1)

    @property
    def corners(self) -> np.ndarray:
        """(cells * cells * per_cell, 4) float64 unit corners, row by row, cell by cell; they may leave the square."""
        centre = (np.arange(self.cells) + 0.5) / self.cells
        y, x = np.meshgrid(centre, centre, indexing="ij")
        centres = np.stack([x, y], axis=-1).reshape(-1, 1, 2)  # (cells * cells, 1, 2)
        half = self.shapes / 2
        return np.concatenate([centres - half, centres + half], axis=-1).reshape(-1, 4)


class Suggestion(NamedTuple):
    """Sizes and ratios for the boxes at hand, and how many of the boxes they were searched with."""

    sizes: tuple[float, ...]
    ratios: tuple[float, ...]
    searched: int


def count_cells(side: int) -> int:
    """How many cells the grid has in each direction for pictures of ``side`` pixels square."""
    return -(-side // STRIDE)


def best_iou(boxes: np.ndarray, anchors: Anchors) -> np.ndarray:
    """The IoU of every box with the anchor that fits it best.

    Parameters: ``boxes`` (n, 4) unit corners. Returns (n,) float64 in [0, 1]; 0 for boxes without area.

    Of anchors of one shape, the one whose centre is nearest in x and in y overlaps a box the most. So each box is
    compared with one cell's anchors, not with those of all the cells, and nothing is lost.
    """
    shapes = anchors.shapes
    return _by_block(boxes, anchors.cells, lambda size, offset: _shape_iou(size, offset, shapes).max(axis=1))


def ideal_iou(boxes: np.ndarray, cells: int) -> np.ndarray:
    """The IoU of every box with an anchor of the best shape there is for it, on a grid of ``cells`` x ``cells``.

    What no sizes and ratios can exceed: only more cells can, and those come with a larger picture. Parameters and
    result as for `best_iou`.
    """
    return _by_block(boxes, cells, _best_shape_iou)


def suggest(boxes: np.ndarray, anchors: Anchors, *, overlap: float = 0.5, seed: int = 0) -> Suggestion:
    """Sizes and ratios that match the most boxes, and among those the closest.

    Parameters: ``boxes`` (n, 4) unit corners; ``anchors``, the grid and what is configured now; ``overlap``, the IoU
    above which an anchor matches. Returns as many anchors a cell as ``anchors`` has (fewer where two came out the
    same), and never worse ones: where none are better for all the boxes, those of ``anchors``.

    Every way to part the anchors into sizes and ratios starts from k-means of the boxes' shapes (`cluster_shapes`);
    from there, and from what is configured, one size or ratio at a time is set to the best of `SIZES` or `RATIOS` until
    none changes. Boxes lie where they are on the grid throughout. Of more than `SEARCHED` boxes, that many, evenly
    spaced, are searched with.

    Raises ValueError for no boxes.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    if not len(boxes):
        raise ValueError("no boxes to suggest anchors for; it takes one at least. 'ena24ssd check' counts a dataset's.")
    sample = boxes[np.linspace(0, len(boxes) - 1, min(len(boxes), SEARCHED)).round().astype(int)]
    size, offset = _sizes_and_offsets(sample, anchors.cells)
    clusters = cluster_shapes(np.maximum(size, 1e-6), anchors.per_cell, seed=seed)
    starts = [(anchors.sizes, anchors.ratios)]
    starts += [_as_family(clusters, count) for count in range(1, anchors.per_cell + 1)]
    table = _shape_table(size, offset)
    _, sizes, ratios = max((_climb(table, *start, overlap) for start in starts), key=lambda end: end[0])
    found = Anchors(anchors.cells, sizes, ratios)
    if _score(best_iou(boxes, found), overlap) <= _score(best_iou(boxes, anchors), overlap):
        found = anchors
    return Suggestion(tuple(found.sizes), tuple(found.ratios), len(sample))


def cluster_shapes(shapes: np.ndarray, count: int, *, seed: int = 0, restarts: int = 3) -> np.ndarray:
    """K-means of widths and heights with the distance 1 - IoU (YOLO9000, Redmon and Farhadi 2016, section 2).

    The two of a comparison lie on the same centre. Starts as k-means++ does; of several such starts, the best.
    Parameters: ``shapes`` (n, 2), positive, one at least. Returns (count, 2), largest area last; a shape may stand
    twice where there are fewer different ones than ``count``.
    """
    random = np.random.default_rng(seed)
    best, best_fit = shapes[:0], -1.0
    for _ in range(restarts):
        centres = shapes[random.integers(len(shapes), size=1)]
        while len(centres) < count:
            distance = np.clip(1 - _centred_iou(shapes, centres).max(axis=1), 0, None) ** 2 + 1e-12
            centres = np.concatenate([centres, random.choice(shapes, 1, p=distance / distance.sum())])
        for _ in range(50):
            nearest = _centred_iou(shapes, centres).argmax(axis=1)
            members = np.bincount(nearest, minlength=count)[:, None]
            sums = np.stack([np.bincount(nearest, axis, count) for axis in shapes.T], axis=1)
            moved = np.where(members > 0, sums / np.maximum(members, 1), centres)
            if np.allclose(moved, centres, rtol=1e-4):
                break
            centres = moved
        fit = _centred_iou(shapes, centres).max(axis=1).mean()
        if fit > best_fit:
            best, best_fit = centres, fit
    return best[np.argsort(best.prod(axis=1))]


def _pairs(sizes: Sequence[Any], ratios: Sequence[Any]) -> list[tuple[Any, Any]]:
    """The size and the ratio of each anchor of a cell, in MXNet's order."""
    return [(size, ratios[0]) for size in sizes] + [(sizes[0], ratio) for ratio in ratios[1:]]


def _by_block(boxes: np.ndarray, cells: int, measure: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """(n,) float64: what ``measure`` says of the boxes' `_sizes_and_offsets`, `BLOCK` boxes at a time."""
    boxes = np.asarray(boxes).reshape(-1, 4)
    result = np.empty(len(boxes))
    for start in range(0, len(boxes), BLOCK):
        block = boxes[start : start + BLOCK].astype(np.float64)
        result[start : start + BLOCK] = measure(*_sizes_and_offsets(block, cells))
    return result


def _sizes_and_offsets(boxes: np.ndarray, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, 2) width and height, and (n, 2) how far the nearest cell's centre lies from the box's, in x and y."""
    size = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    nearest = (np.clip(np.floor(centre * cells), 0, cells - 1) + 0.5) / cells
    return size, np.abs(centre - nearest)


def _shape_iou(size: np.ndarray, offset: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """(n, K) IoU of n boxes with K shapes whose centres lie ``offset`` (n, 2) away."""
    common, own, other = 1.0, size.prod(axis=1)[:, None], shapes.prod(axis=1)
    for axis in (0, 1):
        extent, away, span = size[:, axis, None], offset[:, axis, None], shapes[:, axis]
        common = common * np.clip(np.minimum((extent + span) / 2 - away, np.minimum(extent, span)), 0, None)
    return common / (own + other - common)  # no anchor is without area


def _best_shape_iou(size: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """(n,) IoU of n boxes with the best of all shapes whose centres lie ``offset`` away."""
    # With the other side given, IoU goes one way all along from the widest anchor inside the box's edges to the
    # narrowest that holds them, and falls beyond either; so the best shape is one of these four.
    inside, around = np.clip(size - 2 * offset, 0, None), size + 2 * offset
    best = np.zeros(len(size))
    for width, common_width in ((inside[:, 0], inside[:, 0]), (around[:, 0], size[:, 0])):
        for height, common_height in ((inside[:, 1], inside[:, 1]), (around[:, 1], size[:, 1])):
            common = common_width * common_height
            union = size.prod(axis=1) + width * height - common
            best = np.maximum(best, np.divide(common, union, out=np.zeros_like(union), where=union > 0))
    return best


def _centred_iou(shapes: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(n, K) IoU of widths and heights laid on one centre."""
    return _shape_iou(shapes, np.zeros_like(shapes), centres)


def _score(best: np.ndarray, overlap: float) -> np.ndarray:
    """How many boxes of the last axis match; the mean IoU, always below one more match, decides between equals."""
    return (best > overlap).sum(axis=-1) + 0.999 * best.mean(axis=-1)


def _shape_table(size: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """(sizes, ratios, n) float32: the IoU of every box with every shape to choose from."""
    table = np.empty((len(SIZES), len(RATIOS), len(size)), dtype=np.float32)
    for row, side in zip(table, SIZES):
        row[:] = _shape_iou(size, offset, np.stack([side * np.sqrt(RATIOS), side / np.sqrt(RATIOS)], axis=1)).T
    return table


def _as_family(shapes: np.ndarray, count: int) -> tuple[Sequence[float], Sequence[float]]:
    """K shapes as ``count`` sizes, the middle one first, at one ratio, and K - count more ratios."""
    size, ratio = np.sqrt(shapes.prod(axis=1)), shapes[:, 0] / shapes[:, 1]
    first = np.median(ratio)
    by_likeness = np.argsort(np.abs(np.log(ratio / first)), kind="stable")
    sizes, odd_ratios = np.sort(size[by_likeness[:count]]), ratio[by_likeness[count:]]
    return [sizes[count // 2], *np.delete(sizes, count // 2)], [first, *odd_ratios]


def _climb(
    table: np.ndarray, sizes: Sequence[float], ratios: Sequence[float], overlap: float
) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """Set one size or ratio at a time to the best there is, until none changes.

    Returns the score reached, the sizes and the ratios; all but the first of each ascend, and none stands twice.
    """
    chosen: list[list[Any]] = [_nearest(sizes, SIZES), _nearest(ratios, RATIOS)]
    reached, before = 0.0, -1.0
    while reached > before:
        before = reached
        for part in chosen:
            for place, kept in enumerate(part):
                part[place] = slice(None)  # all there are, side by side
                by_dimensions = sorted((table[pair] for pair in _pairs(*chosen)), key=np.ndim)  # (n,), then (all, n)
                scores = _score(reduce(np.maximum, by_dimensions), overlap)
                part[place] = kept if scores[kept] == scores.max() else int(scores.argmax())
                reached = float(scores.max())
    ends = []
    for part, grid in zip(chosen, (SIZES, RATIOS)):
        in_order = dict.fromkeys([part[0], *sorted(part[1:])])
        ends.append(tuple(grid[list(in_order)].tolist()))
    return reached, *ends


def _nearest(values: Sequence[float], grid: np.ndarray) -> list[int]:
    return [int(np.abs(np.log(grid / value)).argmin()) for value in values]
